"""docs/runbook.md tells of everything that can be parked, and of nothing that there is not."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from google.protobuf import descriptor_pb2

from mesh.config import ServiceSettings
from mesh.migrations import PACKAGES
from payment_svc.checked import FindingKind

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SOURCES = ("mesh", "paymeshctl", *PACKAGES.values())
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOUD = {"warning", "error", "exception", "critical"}

REASON = re.compile(r"([A-Z][A-Z_]{3,}): ")
"""How an attention_reason begins, in the code."""


def trees(*packages: str) -> Iterator[ast.AST]:
    """The parsed modules of the packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ast.parse(path.read_text())


def reasons_in_code() -> set[str]:
    """The first words of all texts of the two services that may park an order."""
    return {
        match[1]
        for tree in trees("payment_svc", "executor_svc")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (match := REASON.match(node.value)) is not None
    }


def _is_line(function: ast.expr) -> bool:
    """`log.info` and the like, or `tell`, where the level is chosen by what is told."""
    if isinstance(function, ast.Attribute):
        return function.attr in LEVELS
    return isinstance(function, ast.Name) and function.id == "tell"


def events_in_code() -> set[str]:
    """What is logged anywhere."""
    return {
        constant.value
        for tree in trees(*SOURCES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        if _is_line(node.func) and node.args
        for constant in ast.walk(node.args[0])
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }


def loud_events_in_code() -> set[str]:
    """What the services log at warning or above, also where the level is chosen by what is told."""
    found = set()
    for tree in trees("mesh", *PACKAGES.values()):
        chosen = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and _is_loud(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                by_name = isinstance(node.func, ast.Name) and node.func.id in chosen
                refused = ast.unparse(node.func) == "told.refused"
                if by_name or refused or _is_loud(node.func):
                    found |= {
                        constant.value
                        for constant in ast.walk(node.args[0])
                        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                    }
    return found


def _is_loud(expression: ast.expr) -> bool:
    """`log.warning` and louder, or a choice of which one is."""
    if isinstance(expression, ast.IfExp):
        return _is_loud(expression.body) or _is_loud(expression.orelse)
    return (
        isinstance(expression, ast.Attribute)
        and ast.unparse(expression.value) == "log"
        and expression.attr in LOUD
    )


def explained_events() -> list[str]:
    """What the table of lines has."""
    rows = re.findall(r"^\| (`.+?) \|", section("Reading logs"), re.MULTILINE)
    return [event for row in rows for event in re.findall(r"`(\w+)`", row)]


def section(title: str) -> str:
    """The text of the section with this title."""
    return RUNBOOK.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_attention_reason_has_its_heading_and_there_is_no_other() -> None:
    told = re.findall(r"^### ([A-Z_]+)$", section("What is parked"), re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == reasons_in_code()
    assert {"OUTCOME_UNKNOWN", "WRONG_AMOUNT", "BOOKING_REFUSED"} <= set(told)


def test_every_attention_reason_says_what_to_do() -> None:
    for text in section("What is parked").split("\n### ")[1:]:
        assert re.search(r"retry|new request_id|Settle|give it back", text), text


def test_the_events_that_it_explains_are_logged() -> None:
    told = explained_events()
    assert len(told) == len(set(told))
    assert len(told) > 20
    assert set(told) <= events_in_code() | loud_events_in_code()


def test_it_explains_every_event_that_is_a_warning_or_worse() -> None:
    loud = loud_events_in_code()
    assert {"gauges_failed", "movement_refused", "order_delayed"} <= loud
    assert loud <= set(explained_events())


def test_every_finding_of_a_check_is_explained_and_there_is_no_other() -> None:
    told = re.findall(r"`([A-Z]+_[A-Z_]+)`", section("The books differ"))
    assert len(told) == len(set(told))
    assert set(told) == {kind.name for kind in FindingKind}


def test_the_rpcs_that_it_names_are_there() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (ROOT / "gen" / "paymesh" / "descriptors.binpb").read_bytes()
    )
    methods = {
        f"{file.package}.{service.name}/{method.name}"
        for file in files.file
        for service in file.service
        for method in service.method
    }
    named = set(re.findall(r"\bpaymesh\.\w+\.v1\.\w+/\w+", RUNBOOK))
    assert named
    assert named <= methods


def test_the_containers_that_it_names_are_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    text = RUNBOOK.replace("\\\n", " ")
    commands = re.findall(r"\bdocker compose (exec|up|run)\b([^\n`]*)", text)
    assert len(commands) > 15
    for verb, words in commands:
        named = re.sub(r" -v \S+| --index \d| -\S+", " ", words).split()
        for name in named if verb == "up" else named[:1]:
            assert name in {*services, "SERVICE"}, (verb, words)


def test_the_settings_that_it_names_are_there() -> None:
    for service, field in re.findall(r"PAYMESH_(PAYMENT|EXECUTOR|<SERVICE>)_([A-Z_]+)", RUNBOOK):
        names = PACKAGES if service == "<SERVICE>" else [service.lower()]
        for name in names:
            settings: type[ServiceSettings] = importlib.import_module(
                f"{PACKAGES[name]}.config"
            ).Settings
            assert field.lower() in settings.model_fields


def test_the_files_that_it_names_are_there() -> None:
    for name in re.findall(
        r"\b(?:tools|docs|payment_svc|executor_svc)/[\w/-]+\.(?:py|md)", RUNBOOK
    ):
        if name != "docs/observability.md":
            assert (ROOT / name).is_file(), name
