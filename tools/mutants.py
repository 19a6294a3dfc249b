"""Test the tests: change the rules in one place, and see that a unit test fails; and so on.

`python -m tools.mutants` takes each mutant that cosmic-ray makes of the files in TESTS, runs the
file's unit tests on it, and prints what survived, and the figures. It fails where too few of a
file's mutants were killed, and where tools/survivors.toml, which explains each survivor, is not
true. docs/mutation.md says more.

A mutant is never written to a file: a process that has loaded everything but the services and
the tests is forked for it, and meets the changed text when it imports the file. That makes a
mutant cost a third of what a new process costs.
"""

import argparse
import ast
import contextlib
import gc
import io
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tools import survivors
from tools.survivors import Change, Trial

ROOT = Path(__file__).resolve().parent.parent

EXPLAINED = ROOT / "tools" / "survivors.toml"

TESTS = {
    "payment_svc/domain.py": "payment_domain",
    "payment_svc/operations.py": "payment_operations",
    "executor_svc/domain.py": "executor_domain",
    "executor_svc/operations.py": "executor_operations",
    "wallet_svc/domain.py": "wallet_domain",
    "wallet_svc/operations.py": "wallet_operations",
    "ledger_svc/domain.py": "ledger_domain",
    "ledger_svc/chart.py": "ledger_chart",
    "ledger_svc/operations.py": "ledger_operations",
    "ledger_svc/reconciliation/domain.py": "reconciliation_domain",
    "psp_stub/domain.py": "psp_stub_domain",
    "psp_stub/operations.py": "psp_stub_operations",
}
"""What is mutated, and the test_….py of tests/unit that has to notice."""

# Without the tests' conftest, which is about databases; and the same examples in each run, of
# which the first that fails is enough.
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "--noconftest", "--hypothesis-profile=mutants")
hypothesis.settings.register_profile(
    "mutants",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)

LOADED_ANEW = ("tests", "psp_stub", "payment_svc", "executor_svc", "wallet_svc", "ledger_svc")

MOST_S = 5
"""What a mutant's tests may take, in seconds of processor time: many times what they do take,
and a machine that is busy with something else kills no mutant. What waits for ever is ended by
pytest-timeout."""

FORK = multiprocessing.get_context("fork")


class Mutant(NamedTuple):
    """One change of one file. line: where; code: the file with it."""

    file: str
    line: int
    code: str

    @property
    def change(self) -> Change:
        """What it changes."""
        return survivors.change_of(self.file, (ROOT / self.file).read_text(), self.code)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:\n{self.change}"


class Verdict(NamedTuple):
    """How a mutant's tests ended: pytest's exit code, or less a signal's number."""

    mutant: Mutant
    exit_code: int | None

    @property
    def survived(self) -> bool:
        """Whether all tests passed."""
        return self.exit_code == pytest.ExitCode.OK

    @property
    def trial(self) -> Trial:
        """What is counted. Tests that went on and on were ended by a signal."""
        timed_out = self.exit_code in (-signal.SIGXCPU, -signal.SIGKILL)
        return Trial(self.mutant.change, self.survived, timed_out)


# --- mutants -----------------------------------------------------------------------------


Place = tuple[int, int]


def unseen(code: str) -> list[tuple[Place, Place]]:
    """Where a change can't be told by any run: in annotations, which stay text.

    And in aliases of types, where it is told at once, because `int & str` is an error.
    """
    spans = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.arg(annotation=ast.expr() as found) | ast.AnnAssign(annotation=found):
                spans.append(found)
            case ast.FunctionDef(returns=ast.expr() as found):
                spans.append(found)
            case ast.AsyncFunctionDef(returns=ast.expr() as found):
                spans.append(found)
            case ast.Assign(value=ast.BinOp(op=ast.BitOr()) as found) if is_union(found):
                spans.append(found)
            case _:
                pass
    return [
        ((at.lineno, at.col_offset), (at.end_lineno or 0, at.end_col_offset or 0)) for at in spans
    ]


def is_union(alias: ast.expr) -> bool:
    """Whether it joins types: `Charge | MeshError | None`."""
    match alias:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return is_union(left) and is_union(right)
        case ast.Name(name):
            return not name.isupper()
        case _:
            return isinstance(alias, ast.Constant) and alias.value is None


def mutants_of(file: str) -> Iterator[Mutant]:
    """All of cosmic-ray's mutants of the file that are other programs, and programs at all."""
    code = (ROOT / file).read_text()
    spans = unseen(code)
    nodes = list(ast_nodes(get_ast(code)))
    for name in operator_names():
        if get_operator(name).arguments():
            continue  # those replace variables by random numbers
        operator = get_operator(name)()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, place in enumerate(places):
            if any(start <= place < end for start, end in spans):
                continue
            mutated = mutate_code(code, operator, occurrence)
            with contextlib.suppress(SyntaxError):
                compile(mutated, file, "exec")
                yield Mutant(file, place[0], mutated)


# --- trying them -------------------------------------------------------------------------


class Mutated(MetaPathFinder, Loader):
    """Imports one module from a text instead of from its file."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = module_of(mutant.file)
        self._mutant = mutant

    def find_spec(
        self, fullname: str, _path: object, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self._mutant.code, self._mutant.file, "exec")
        exec(code, module.__dict__)  # noqa: S102 - it is ours, but for one place


def module_of(file: str) -> str:
    """The dotted name of a file's module."""
    return file.removesuffix(".py").replace("/", ".")


def warm_up(files: Sequence[str]) -> None:
    """Load what the tests load, but keep neither them nor the services."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = pytest.main([*PYTEST, "--collect-only", *{tests_of(file) for file in files}])
    if found != pytest.ExitCode.OK:
        raise SystemExit(f"the tests can't be collected: {found!r}")
    for name in list(sys.modules):
        if name.partition(".")[0] in LOADED_ANEW:
            del sys.modules[name]
    gc.collect()
    gc.freeze()  # nothing of it is garbage, so that no child has to look at it


def tests_of(file: str) -> str:
    """The path of a file's tests."""
    return f"tests/unit/test_{TESTS[file]}.py"


def _run_tests(mutant: Mutant) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_S, MOST_S))
    sys.meta_path.insert(0, Mutated(mutant))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    # No cleanup of what was inherited from the process that was forked.
    os._exit(pytest.main([*PYTEST, tests_of(mutant.file)]))


def attempt(mutant: Mutant) -> Verdict:
    """Run the tests on the mutant, in a process of their own."""
    process = FORK.Process(target=_run_tests, args=(mutant,))
    process.start()
    process.join()
    return Verdict(mutant, process.exitcode)


def check_baseline(files: Sequence[str]) -> None:
    """Refuse to go on where tests fail as it is: they would kill every mutant."""
    for file in files:
        verdict = attempt(Mutant(file, 0, (ROOT / file).read_text()))
        if not verdict.survived:
            raise SystemExit(f"the tests of {file} fail as it is: {verdict.exit_code}")


# --- figures -----------------------------------------------------------------------------


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mutate the rules, and run their unit tests.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--report", type=Path, help="put figures and explanations into this page")
    parser.add_argument("files", nargs="*", help="of the project; without any, all of them")
    arguments = parser.parse_args()
    files: list[str] = arguments.files or list(TESTS)
    jobs: int = arguments.jobs
    report: Path | None = arguments.report
    explanations = survivors.read(EXPLAINED)
    explained = {change for one in explanations for change in one.changes}

    start = time.monotonic()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    warm_up(files)
    check_baseline(files)
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    with ProcessPoolExecutor(jobs, mp_context=FORK) as pool:
        verdicts = []
        for verdict in pool.map(attempt, mutants):
            verdicts.append(verdict)
            if verdict.survived and verdict.mutant.change not in explained:
                print(verdict.mutant, flush=True)
    untried = [v for v in verdicts if v.exit_code in (pytest.ExitCode.NO_TESTS_COLLECTED, 4)]
    if untried:
        raise SystemExit(f"no test was run on {untried[0].mutant}")

    trials = [verdict.trial for verdict in verdicts]
    figures = survivors.figures_by_file(explanations, trials)
    processor_s = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    printed = (
        f"{survivors.table(figures)}\n"
        f"{time.monotonic() - start:.0f} s, {jobs} at a time; {processor_s:.0f} s of a processor"
    )
    print(f"\n{printed}")
    found = survivors.complaints(explanations, trials)
    if poor := survivors.poor(figures):
        found.append(f"fewer than {survivors.LEAST_PERCENT} % killed: {', '.join(poor)}")
    if found:
        print("\n" + "\n".join(found))
    elif report:
        report.write_text(survivors.page(report.read_text(), printed, explanations))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
