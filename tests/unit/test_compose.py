"""docker-compose.yml and the image, as far as they can be checked without an engine."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.config import ServiceSettings, load
from mesh.embedded.binaries import POSTGRES_MAJOR
from mesh.migrations import PACKAGES
from paymeshctl.databases import DatabaseSettings
from paymeshctl.main import app
from paymeshctl.ports import DEFAULT_PORT_BASE, PORT_OFFSETS
from tools import lock_subset

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()

VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def interpolated(text: str) -> str:
    """The file as Compose reads it where no variable is set."""
    return VARIABLE.sub(lambda match: match[2], text)


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = tuple(PACKAGES)


def service(name: str) -> dict[str, Any]:
    """A container by the mesh's name of its service; host names have no underscores."""
    return SERVICES[name.replace("_", "-")]


def settings_class(name: str) -> type[ServiceSettings]:
    loaded: type[ServiceSettings] = importlib.import_module(f"{PACKAGES[name]}.config").Settings
    return loaded


def prefix(name: str) -> str:
    return f"PAYMESH_{name.upper()}_"


def test_all_services_run_from_one_image() -> None:
    containers = {name.replace("_", "-") for name in OURS}
    assert set(SERVICES) == containers | {"postgres", "migrate"}
    assert len({SERVICES[name]["image"] for name in containers | {"migrate"}}) == 1
    assert SERVICES["postgres"]["image"] == f"postgres:{POSTGRES_MAJOR}"


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_its_package(name: str) -> None:
    assert service(name)["command"] == ["python", "-m", PACKAGES[name]]
    assert importlib.util.find_spec(f"{PACKAGES[name]}.__main__") is not None


@pytest.mark.parametrize("name", OURS)
def test_its_variables_are_settings_and_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = settings_class(name).model_fields
    environment = service(name)["environment"]
    for variable, value in environment.items():
        assert variable.removeprefix(prefix(name)).lower() in fields
        monkeypatch.setenv(variable, value)
    settings = load(settings_class(name))
    assert settings.host == "0.0.0.0"
    assert settings.port == DEFAULT_PORT_BASE + PORT_OFFSETS[name]


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
        "payment": ["127.0.0.1:50051:50051"]
    }


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


def test_migrate_makes_the_databases_that_the_services_use() -> None:
    environment = SERVICES["migrate"]["environment"]
    verb, command = SERVICES["migrate"]["command"]
    assert verb == "paymesh"
    assert command in {
        info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands
    }
    settings = DatabaseSettings.read(environment)
    assert settings.admin_url is not None
    assert settings.urls == {
        name: service(name)["environment"][f"{prefix(name)}DATABASE_URL"] for name in OURS
    }
    assert len({url.rpartition("/")[2] for url in settings.urls.values()}) == len(OURS)


def test_a_service_sees_no_database_but_its_own() -> None:
    for name in OURS:
        urls = [variable for variable in service(name)["environment"] if "DATABASE" in variable]
        assert urls == [f"{prefix(name)}DATABASE_URL"]


def test_containers_have_no_rights_to_spare() -> None:
    for name, settings in SERVICES.items():
        if name != "postgres":
            assert settings["read_only"] is True
            assert settings["cap_drop"] == ["ALL"]
            assert settings["security_opt"] == ["no-new-privileges:true"]


def test_a_service_may_drain_before_it_is_killed() -> None:
    for name in OURS:
        drain_s = settings_class(name).model_fields["drain_s"].default
        assert int(service(name)["stop_grace_period"].removesuffix("s")) > drain_s


def test_the_image_is_small_locked_and_not_roots() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert stages == ["python:3.11-slim", "python:3.11-slim"]
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(r"^USER [1-9]\d*$", final, re.MULTILINE)
    assert "pip" not in final
    assert DOCKERFILE.count("--require-hashes") == 2
    assert not re.search(r"https?://|--(extra-)?index-url|--trusted-host", DOCKERFILE)


def test_the_build_has_all_that_it_copies() -> None:
    """.dockerignore leaves out everything that it does not name."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")}
    assert "*" in lines
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert set(copied.split()) <= kept | {"."}
    pyproject = (ROOT / "pyproject.toml").read_text()
    wheel = tomllib.loads(pyproject)["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = {package.partition("/")[0] for package in wheel["packages"]}
    assert packages <= kept


def test_the_image_gets_what_runs_and_no_tools() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    roots = lock_subset.runtime_roots((ROOT / "pyproject.toml").read_text())
    chosen = set(lock_subset.entries(lock_subset.subset(lock, roots)))
    assert {"grpcio", "sqlalchemy", "psycopg-binary", "greenlet", "mako"} <= chosen
    assert not chosen & {"pytest", "mypy", "ruff", "grpcio-tools", "hatchling", "buf-bin", "pip"}
    # What the installed packages themselves say that they need.
    installed = {
        lock_subset.canonical(distribution.metadata["Name"])
        for distribution in importlib.metadata.distributions()
    }
    for name in chosen & installed:
        for requirement in importlib.metadata.requires(name) or ():
            if "extra ==" not in requirement and ";" not in requirement:
                match = re.match(r"[\w.-]+", requirement)
                assert match is not None
                assert lock_subset.canonical(match[0]) in chosen


def test_a_root_that_is_not_locked_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        lock_subset.subset("a==1 \\\n    --hash=sha256:00\n    # via x\n", {"nothing"})


def test_the_subset_follows_what_is_needed() -> None:
    lock = (
        "# made by a tool\n"
        "a==1 \\\n    --hash=sha256:00\n    # via paymesh (pyproject.toml)\n"
        "b-c==2 ; sys_platform == 'win32' \\\n    --hash=sha256:01\n"
        "    # via\n    #   a\n    #   z\n"
        "d==3 \\\n    --hash=sha256:02\n    # via b-c\n"
        "z==4 \\\n    --hash=sha256:03\n    # via paymesh (pyproject.toml)\n"
    )
    part = lock_subset.subset(lock, {"A"})
    assert set(lock_subset.entries(part)) == {"a", "b-c", "d"}
    assert "--hash=sha256:02" in part
    assert "b-c==2 ; sys_platform == 'win32'" in part
