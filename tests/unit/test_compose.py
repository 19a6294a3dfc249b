"""docker-compose.yml and the image, as far as they can be checked without an engine."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from ledger_svc.main import RECONCILIATION_CONNECTIONS
from mesh.config import ServiceSettings, load
from mesh.db import Database
from mesh.embedded.binaries import POSTGRES_MAJOR
from mesh.migrations import PACKAGES
from paymeshctl.databases import DatabaseSettings
from paymeshctl.main import app
from paymeshctl.ports import DEFAULT_PORT_BASE, PORT_OFFSETS

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = tuple(PACKAGES)
POOL_SIZE = int(inspect.signature(Database).parameters["pool_size"].default)


def service(name: str) -> dict[str, Any]:
    """A container by the mesh's name of its service; host names have no underscores."""
    return SERVICES[name.replace("_", "-")]


def settings_class(name: str) -> type[ServiceSettings]:
    loaded: type[ServiceSettings] = importlib.import_module(f"{PACKAGES[name]}.config").Settings
    return loaded


def prefix(name: str) -> str:
    return f"PAYMESH_{name.upper()}_"


@pytest.fixture
def passwords(tmp_path: Path) -> dict[str, str]:
    """Secret → the file on this machine that stands for the mounted one."""
    folder = tmp_path / "secrets"
    made_secrets(folder)
    return {name: str(folder / name) for name in COMPOSE["secrets"]}


def mounted(environment: dict[str, str], passwords: dict[str, str]) -> dict[str, str]:
    """A container's environment, with its secrets where the test has them."""
    return {
        variable: passwords[Path(value).name] if value.startswith("/run/secrets/") else value
        for variable, value in environment.items()
    }


def made_secrets(folder: Path) -> dict[str, str]:
    """Runs `make secrets` for the folder; what is in it then, by name."""
    command = ["make", "--no-print-directory", "secrets", f"SECRETS={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=30)
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_all_services_run_from_one_image() -> None:
    containers = {name.replace("_", "-") for name in OURS}
    assert set(SERVICES) == containers | {"postgres", "migrate", "reconcile"}
    assert len({SERVICES[name]["image"] for name in containers | {"migrate", "reconcile"}}) == 1
    # By default what `docker compose build` makes; a release is another tag.
    assert SERVICES["migrate"]["image"] == "${PAYMESH_IMAGE:-paymesh:local}"
    assert SERVICES["postgres"]["image"] == f"postgres:{POSTGRES_MAJOR}"


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_its_package(name: str) -> None:
    assert service(name)["command"] == ["python", "-m", PACKAGES[name]]
    assert importlib.util.find_spec(f"{PACKAGES[name]}.__main__") is not None


@pytest.mark.parametrize("name", OURS)
def test_its_variables_are_settings_and_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch, passwords: dict[str, str]
) -> None:
    fields = settings_class(name).model_fields
    environment = mounted(service(name)["environment"], passwords)
    for variable, value in environment.items():
        if variable != "TMPDIR" and not variable.endswith("_FILE"):
            assert variable.removeprefix(prefix(name)).lower() in fields
        monkeypatch.setenv(variable, value)
    settings = load(settings_class(name))
    assert settings.host == "0.0.0.0"
    assert settings.port == DEFAULT_PORT_BASE + PORT_OFFSETS[name]
    url = make_url(settings.database_url)
    assert (url.host, url.port) == ("postgres", 5432)
    assert url.password == Path(passwords[name]).read_text().strip()


@pytest.mark.parametrize("name", OURS)
def test_its_targets_are_where_the_others_listen(name: str) -> None:
    for variable, value in service(name)["environment"].items():
        if not variable.endswith("_TARGET"):
            continue
        match = re.fullmatch(r"dns:///([a-z-]+):(\d+)", value)
        assert match is not None
        peer = match[1].replace("-", "_")
        assert match[2] == service(peer)["environment"][f"{prefix(peer)}PORT"]
        # A peer that is not waited for would be called before it can answer.
        assert match[1] in service(name)["depends_on"]


def test_every_target_that_a_service_needs_is_set() -> None:
    for name in OURS:
        needed = {field for field in settings_class(name).model_fields if field.endswith("_target")}
        given = {
            variable.removeprefix(prefix(name)).lower()
            for variable in service(name)["environment"]
            if variable.endswith("_TARGET")
        }
        assert given == needed


@pytest.mark.parametrize("name", OURS)
def test_its_health_is_asked_on_its_port(name: str) -> None:
    port = service(name)["environment"][f"{prefix(name)}PORT"]
    check = service(name)["healthcheck"]
    assert check["test"] == ["CMD", "python", "-m", "mesh.healthcheck", port]
    assert importlib.util.find_spec("mesh.healthcheck") is not None


def test_only_payment_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: settings.get("ports", []) for name, settings in SERVICES.items()}
    assert {name: ports for name, ports in published.items() if ports} == {
        "payment": ["127.0.0.1:50051-50052:50051"]
    }
    for name, settings in SERVICES.items():
        assert settings["networks"] == (["mesh", "edge"] if name == "payment" else ["mesh"])
    assert COMPOSE["networks"]["mesh"] == {"internal": True}


def test_payment_has_replicas_and_each_a_port_of_its_own() -> None:
    replicas = SERVICES["payment"]["deploy"]["replicas"]
    (port,) = SERVICES["payment"]["ports"]
    first, last = re.fullmatch(r"127\.0\.0\.1:(\d+)-(\d+):50051", port).groups()  # type: ignore[union-attr]
    assert replicas >= 2
    assert int(last) - int(first) + 1 == replicas
    for settings in SERVICES.values():
        # A container of a fixed name, or with a fixed port of the host, can't be doubled.
        assert "container_name" not in settings


def test_all_replicas_together_find_room_at_postgres() -> None:
    # A ledger has as many connections again for its reconciliation.
    of_one = dict.fromkeys(OURS, 2 * POOL_SIZE)
    of_one["ledger"] += 2 * RECONCILIATION_CONNECTIONS
    connections = sum(
        of_one[name] * service(name).get("deploy", {}).get("replicas", 1) for name in OURS
    )
    _, flag, setting = SERVICES["postgres"]["command"]
    name, _, most = setting.partition("=")
    assert (flag, name) == ("-c", "max_connections")
    # PostgreSQL keeps 3. One more of each finds room, and so do `paymesh migrate` and people.
    assert connections + sum(of_one.values()) + 40 <= int(most) - 3


def test_migrations_come_after_postgres_and_before_every_service() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["migrate"]["restart"] == "no"
    for name in OURS:
        condition = service(name)["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully"


def test_who_waits_for_health_waits_for_one_who_tells_it() -> None:
    for settings in SERVICES.values():
        for name, how in settings.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]


def test_nobody_waits_in_a_circle() -> None:
    started: set[str] = set()
    while len(started) < len(SERVICES):
        ready = {
            name
            for name, settings in SERVICES.items()
            if name not in started and set(settings.get("depends_on", {})) <= started
        }
        assert ready, f"none of {set(SERVICES) - started} can start"
        started |= ready


def test_migrate_makes_the_databases_that_the_services_use(
    monkeypatch: pytest.MonkeyPatch, passwords: dict[str, str]
) -> None:
    environment = mounted(SERVICES["migrate"]["environment"], passwords)
    verb, command = SERVICES["migrate"]["command"]
    assert verb == "paymesh"
    assert command in {
        info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands
    }
    settings = DatabaseSettings.read(environment)
    assert settings.admin_url is not None
    admin = make_url(settings.admin_url)
    assert admin.password == Path(passwords["postgres"]).read_text().strip()
    for name in OURS:
        for variable, value in mounted(service(name)["environment"], passwords).items():
            monkeypatch.setenv(variable, value)
    assert settings.urls == {name: load(settings_class(name)).database_url for name in OURS}
    assert len({url.rpartition("/")[2] for url in settings.urls.values()}) == len(OURS)


def test_a_service_sees_no_database_but_its_own() -> None:
    for name in OURS:
        urls = [variable for variable in service(name)["environment"] if "DATABASE" in variable]
        assert urls == [f"{prefix(name)}DATABASE_URL", f"{prefix(name)}DATABASE_PASSWORD_FILE"]
        assert service(name)["secrets"] == [name]


def test_no_password_is_in_the_environment_or_in_the_file() -> None:
    for settings in SERVICES.values():
        for variable, value in settings["environment"].items():
            if "PASSWORD" in variable:
                assert variable.endswith("_FILE")
                assert value.startswith("/run/secrets/")
            elif "URL" in variable:
                assert make_url(value).password is None
    assert "PASSWORD:-" not in (ROOT / "docker-compose.yml").read_text()


def test_every_secret_that_is_read_is_mounted_and_no_other() -> None:
    for settings in SERVICES.values():
        read = {
            value.removeprefix("/run/secrets/")
            for variable, value in settings["environment"].items()
            if variable.endswith("_FILE")
        }
        assert set(settings["secrets"]) == read
        assert read <= set(COMPOSE["secrets"])


def test_make_secrets_makes_each_secret_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = made_secrets(folder)

    assert set(first) == set(COMPOSE["secrets"])
    assert {where["file"] for where in COMPOSE["secrets"].values()} == {
        f"./deploy/secrets/{name}" for name in first
    }
    assert len(set(first.values())) == len(first)
    assert all(len(password) >= 43 for password in first.values())
    # Compose mounts a file with the rights it has, for a service that is not its owner.
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    (folder / "wallet").unlink()
    again = made_secrets(folder)
    assert again.pop("wallet") != first.pop("wallet")
    assert again == first


def test_secrets_are_never_committed() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/secrets/payment"], cwd=ROOT, check=False
    )
    assert ignored.returncode == 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_to_spare(name: str) -> None:
    settings = SERVICES[name]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert "cap_add" not in settings
    assert "privileged" not in settings
    assert settings["security_opt"] == ["no-new-privileges:true"]
    user, _, group = settings["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_cannot_take_the_whole_machine(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert 0 < float(limits["cpus"]) <= 2
    assert re.fullmatch(r"\d+[MG]", limits["memory"])
    assert 0 < limits["pids"] <= 512
    for mount in SERVICES[name]["tmpfs"]:
        assert "size=" in mount
    assert {"max-size", "max-file"} <= set(SERVICES[name]["logging"]["options"])


def test_a_large_settlement_file_waits_on_a_disk_that_the_ledger_may_write() -> None:
    ledger = service("ledger")
    folder = ledger["environment"]["TMPDIR"]
    ((volume, where),) = (mount.split(":") for mount in ledger["volumes"])
    assert where == folder
    assert volume in COMPOSE["volumes"]
    user = ledger["user"].partition(":")[0]
    assert re.search(rf"install -d -o {user} -g {user} .*{folder}$", DOCKERFILE, re.MULTILINE)


def test_the_services_run_as_the_user_of_the_image() -> None:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    for name in (*OURS, "migrate", "reconcile"):
        assert service(name)["user"] == f"{user}:{user}"


def test_postgres_can_write_where_it_must() -> None:
    settings = SERVICES["postgres"]
    user, _, group = settings["user"].partition(":")
    mounts = {mount.partition(":")[0]: mount for mount in settings["tmpfs"]}
    assert f"uid={user},gid={group}" in mounts["/var/run/postgresql"]
    assert "/tmp" in mounts
    # Since 18 the image has its data below this folder, one for each major version.
    assert settings["volumes"] == ["postgres:/var/lib/postgresql"]
    assert settings["shm_size"] == "256m"


def test_a_service_may_drain_before_it_is_killed() -> None:
    for name in OURS:
        drain_s = settings_class(name).model_fields["drain_s"].default
        assert int(service(name)["stop_grace_period"].removesuffix("s")) > drain_s
