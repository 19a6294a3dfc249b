"""`python -m tests.conformance` as its users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor_svc import clients
from tests.conformance import __main__ as command
from tests.conformance.answers import REFUSALS
from tests.conformance.kit import RULES
from tests.conformance.own_stub import stub_process
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.psp_stub import own_database

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: str, timeout_s: float = 55) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.conformance", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="module")
def stub(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The target of a stub as a process."""
    log_file = tmp_path_factory.mktemp("stub") / "stub.log"
    with stub_process(own_database(postgres_server), {}, log_file) as target:
        yield target


def test_without_a_target_it_starts_the_stub_and_finds_every_rule_kept() -> None:
    done = run("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["source"] == "psp_stub"
    assert {rule["verdict"] for rule in told["rules"]} == {"KEPT", "NOT_TRIED"}
    assert (told["kept"], told["not_kept"], told["not_tried"]) == (len(RULES) - 1, 0, 1)
    assert [rule["name"] for rule in told["rules"]] == [rule.name for rule in RULES]


def test_a_rule_that_is_not_kept_is_shown_with_its_reason_and_exits_with_1(stub: str) -> None:
    # The stub takes three seconds for it, and then it is late.
    done = run("--target", stub, "--only", "pending.captured", "about", "--pending-s", "0.1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT KEPT" in done.stdout
    assert "pending.captured: a pending charge that ends well" in done.stdout
    assert "Why: the mesh waits for it" in done.stdout
    assert "8 kept, 1 not kept, 0 not tried" in done.stdout


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--strict"], 1)])
def test_what_was_not_tried_is_an_error_only_if_it_is_asked_for(
    stub: str, arguments: list[str], code: int
) -> None:
    done = run("--target", stub, "--only", "money.other_exponent", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "0 kept, 0 not kept, 1 not tried" in done.stdout


def test_nobody_there_exits_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", f"127.0.0.1:{free_port()}", "--connect-s", "0.5", "--json"]
    assert command.main(arguments) == 2
    out, err = capfd.readouterr()
    assert "nothing answers at 127.0.0.1" in json.loads(out)["error"]
    assert "nothing answers at 127.0.0.1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--target", "localhost"], "'localhost' is not host:port"),
        (["--target", "localhost:99999"], "'localhost:99999' is not host:port"),
        (["--target", "http://localhost:1"], "'http://localhost:1' is not host:port"),
        (["--target", ""], "'' is not host:port"),
        (["--amount-minor", "0"], "'0' is not a whole number above 0"),
        (["--amount-minor", "1.5"], "'1.5' is not a whole number above 0"),
        (["--largest-minor", "1000000000000000"], "is above 999999999999999"),
        (["--list-length", "1001"], "'1001' is above 1000"),
        (["--currency", "eur"], "'eur' is no currency code"),
        (["--hang-s", "nan"], "'nan' is not a number of seconds above 0"),
        (["--key-memory-s", "-1"], "--key-memory-s"),
        (["--parallel", "none"], "'none' is not a whole number above 0"),
        (["--token-strange", "x"], "--token-strange"),
    ],
)
def test_a_bad_option_is_named_and_exits_with_2(
    arguments: list[str], named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert named in capfd.readouterr().err


def test_a_rule_that_there_is_not_is_named_and_exits_with_2(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--only", "keys", "keys.nonsense"]) == 2
    assert "there is no rule or group keys.nonsense" in capfd.readouterr().err


def test_the_rules_can_be_read_without_an_adapter(capfd: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--rules", "--json", "--only", "keys.repeated", "money"]) == 0
    told = json.loads(capfd.readouterr().out)["rules"]
    assert told[0]["name"] == "keys.repeated"
    assert {rule["name"].partition(".")[0] for rule in told} == {"keys", "money"}
    assert all(rule["holds"] and rule["why"] for rule in told)


def test_a_failure_of_the_kit_itself_is_not_the_adapters(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(command, "run", run)
    assert command.main(["--target", "127.0.0.1:1"]) == 2
    assert "the kit itself failed" in capfd.readouterr().err


def test_the_kit_reads_refusals_as_the_executor_does() -> None:
    assert REFUSALS == clients._REFUSALS


def test_the_document_has_every_rule_in_its_words() -> None:
    document = (REPOSITORY / "docs" / "conformance.md").read_text().splitlines()
    rows = [f"| `{rule.name}` | {rule.holds} |" for rule in RULES]
    assert [line for line in document if re.match(r"\| `\w+\.", line)] == rows
