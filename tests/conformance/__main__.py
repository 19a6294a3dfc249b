"""Tries a PSP adapter: `python -m tests.conformance --target host:port`.

Says of each rule whether it is kept, NOT KEPT or not tried, and what was seen. Without
--target it starts the stub by itself, on a PostgreSQL of its own, and tries that. The
adapter is charged for real: point it at a sandbox.

Exits with 0 if every rule that was tried is kept, 1 if one is not, 2 if nothing could be tried.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace

from mesh.money import MAX_AMOUNT_MINOR
from tests.conformance import report
from tests.conformance.adapter import CannotRun
from tests.conformance.kit import named, run
from tests.conformance.options import Options, Tokens
from tests.conformance.own_stub import KEY_MEMORY_S, own_stub
from tests.conformance.rule import Rule, Verdict

NOT_KEPT = 1
COULD_NOT_RUN = 2

_TARGET = re.compile(r"(?:dns:///)?(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{1,5}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the kit; answers the exit code."""
    parsed = _parser().parse_args(arguments)
    as_json: bool = parsed.json
    try:
        rules = named(parsed.only)
    except ValueError as error:
        report.print_problem(f"{error} (--rules lists them)", as_json=as_json)
        return COULD_NOT_RUN
    if parsed.rules:
        report.print_rules(rules, as_json=as_json)
        return 0
    try:
        return _try(parsed, rules, as_json=as_json)
    except CannotRun as error:
        report.print_problem(str(error), as_json=as_json)
    except KeyboardInterrupt:
        report.print_problem("interrupted", as_json=as_json)
    except Exception:  # noqa: BLE001 - 1 would say that the adapter broke a rule
        traceback.print_exc()
        report.print_problem("the kit itself failed", as_json=as_json)
    return COULD_NOT_RUN


def _try(parsed: argparse.Namespace, rules: Sequence[Rule], *, as_json: bool) -> int:
    options = _options(parsed)
    with ExitStack() as stack:
        target: str = parsed.target
        if not target:
            key_memory_s = options.key_memory_s or KEY_MEMORY_S
            options = replace(options, key_memory_s=key_memory_s)
            target = stack.enter_context(own_stub(key_memory_s))
        if not as_json:
            sys.stderr.write(f"trying {len(rules)} rules on {target} …\n")
        trial = asyncio.run(run(target, options, rules))
    show = report.print_json if as_json else report.print_table
    show(trial)
    broken = report.count(trial.results, Verdict.NOT_KEPT)
    if parsed.strict:
        broken += report.count(trial.results, Verdict.NOT_TRIED)
    return NOT_KEPT if broken else 0


def _options(parsed: argparse.Namespace) -> Options:
    tokens = Tokens(**{f.name: getattr(parsed, f"token_{f.name}") for f in fields(Tokens)})
    others = {f.name: getattr(parsed, f.name) for f in fields(Options) if f.name != "tokens"}
    return Options(tokens=tokens, **others)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m tests.conformance --target 127.0.0.1:50055 --only keys lookup",
    )
    defaults = Options()
    add = parser.add_argument
    add("--target", type=_target, help="the adapter's host:port; default: the stub")
    add("--only", nargs="+", default=[], metavar="RULE", help="rules or groups to try")
    add("--rules", action="store_true", help="list the rules and try nothing")
    add("--strict", action="store_true", help="exit with 1 also for what was not tried")
    add("--json", action="store_true", help="one JSON object instead of the table")
    sandbox = parser.add_argument_group(
        "the sandbox", "payment methods that provoke a behaviour; '' where there is none"
    )
    for token in fields(Tokens):
        sandbox.add_argument(
            f"--token-{token.name.replace('_', '-')}",
            default=token.default,
            metavar="TOKEN",
            help=str(token.default),
        )
    add = sandbox.add_argument
    add("--currency", type=_currency, default=defaults.currency, help="of the charges")
    add(
        "--other-currency",
        type=_currency,
        default=defaults.other_currency,
        help="a second one that the adapter charges",
    )
    add(
        "--amount-minor",
        type=_amount,
        default=defaults.amount_minor,
        help="about how much each charge is, in minor units",
    )
    add(
        "--largest-minor",
        type=_amount,
        default=defaults.largest_minor,
        help="the largest amount that the sandbox captures",
    )
    add(
        "--key-memory-s",
        type=_seconds,
        default=None,
        help="after which the sandbox forgets a key, if that can be waited for",
    )
    add(
        "--list-length",
        type=_list_length,
        default=defaults.list_length,
        help="of the long lists, at most 1000",
    )
    for name, what in (
        ("deadline_s", "the executor's deadline for a charge"),
        ("look_up_deadline_s", "the executor's deadline for look-ups and capabilities"),
        ("hang_s", "how long to wait for what should never be answered"),
        ("evidence_s", "within which a look-up tells of an unanswered capture"),
        ("pending_s", "within which pending charges end"),
        ("connect_s", "for reaching the adapter"),
    ):
        add(
            f"--{name.replace('_', '-')}",
            type=_seconds,
            default=getattr(defaults, name),
            help=what,
        )
    add("--parallel", type=_positive, default=defaults.parallel, help="rules at once")
    return parser


def _target(text: str) -> str:
    if not _TARGET.fullmatch(text) or not 0 < int(text.rpartition(":")[2]) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text


def _currency(text: str) -> str:
    if text and not re.fullmatch("[A-Z]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no currency code")
    return text


def _positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _amount(text: str) -> int:
    amount_minor = _positive(text)
    if amount_minor > MAX_AMOUNT_MINOR:
        raise argparse.ArgumentTypeError(f"{text!r} is above {MAX_AMOUNT_MINOR}")
    return amount_minor


def _list_length(text: str) -> int:
    length = _positive(text)
    if length > 1_000:
        raise argparse.ArgumentTypeError(f"{text!r} is above 1000")
    return length


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
