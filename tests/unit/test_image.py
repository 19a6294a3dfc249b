"""The image, and what `make lint` says of the files that containers are made from."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import lock_subset

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def judged(path: Path) -> subprocess.CompletedProcess[str]:
    """What `make lint` says of a Compose file."""
    command = [sys.executable, str(ROOT / "tools" / "compose.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def hadolint(path: Path) -> tuple[int, str]:
    """The exit code of the Dockerfile's linter, and what it says."""
    command = [str(Path(sys.executable).with_name("hadolint")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "read_onl: true"),
        ("condition: service_healthy", "condition: service_happy"),
    ],
)
def test_make_check_refuses_what_compose_does_not_know(
    right: str, wrong: str, tmp_path: Path
) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert right in text
    path = tmp_path / "docker-compose.yml"
    path.write_text(text.replace(right, wrong))
    refused = judged(path)
    assert refused.returncode == 1
    assert "Schema validation errors" in refused.stdout


def test_the_linter_of_the_dockerfile_finds_faults(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(DOCKERFILE)
    assert hadolint(path) == (0, "")
    path.write_text(DOCKERFILE.replace("USER 10001", "RUN apt-get install sudo && sudo true"))
    code, said = hadolint(path)
    assert code == 1
    assert "DL3004" in said


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
