"""No commit and no call goes past the wrappers in which faults are injected."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import failpoints

ROOT = Path(__file__).parents[2]
SERVICES = ("payment_svc", "executor_svc", "wallet_svc", "ledger_svc", "psp_stub", "mesh")

WAYS_AROUND = {
    "create_engine": "mesh/migrations.py",
    "create_async_engine": "mesh/db.py",
    "async_sessionmaker": "",
    "insecure_channel": "mesh/channel.py mesh/healthcheck.py",
    "secure_channel": "",
    "begin_nested": "",
}
"""What makes a connection, a channel or a transaction, and the files that may."""


def called(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name is not None:
                yield name, node.lineno


@pytest.mark.parametrize("package", SERVICES)
def test_only_the_wrappers_open_connections_and_channels(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} calls {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, line in called(path)
        if name in WAYS_AROUND
        and str(path.relative_to(ROOT)) not in WAYS_AROUND[name].split()
        and "migrations/" not in str(path)
    ]

    assert not found


@pytest.mark.parametrize("package", SERVICES)
def test_nothing_commits_but_the_wrapper(package: str) -> None:
    """`Database.commit` takes a name; the driver's takes nothing."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "commit"
        and not node.args
    ]

    assert {place.partition(":")[0] for place in found} <= {"mesh/db.py", "mesh/migrations.py"}


def test_nothing_is_installed_by_itself() -> None:
    assert failpoints.installed() is None


@pytest.mark.parametrize("package", SERVICES)
def test_no_service_installs_failpoints(package: str) -> None:
    users = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / package).rglob("*.py"))
        if any(name == "install" for name, _ in called(path))
    ]

    assert not users
