"""The hooks before a commit: valid, local, and made of tools that `make setup` brings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / ".pre-commit-config.yaml"
BIN = Path(sys.executable).parent
REPOSITORIES: list[dict[str, Any]] = yaml.safe_load(CONFIG.read_text())["repos"]
HOOKS: list[dict[str, Any]] = [hook for repository in REPOSITORIES for hook in repository["hooks"]]


def validated(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "pre-commit"), "validate-config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_configuration_is_valid() -> None:
    done = validated(CONFIG)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_configuration_that_is_not_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "config.yaml"
    broken.write_text(CONFIG.read_text().replace("entry:", "entries:"))
    done = validated(broken)
    assert done.returncode == 1
    assert "Missing required key: entry" in done.stdout


def test_nothing_is_downloaded() -> None:
    assert [repository["repo"] for repository in REPOSITORIES] == ["local"]
    assert {hook["language"] for hook in HOOKS} == {"system"}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_what_setup_brings(hook: dict[str, Any]) -> None:
    program = hook["entry"].split()[0]
    if program.startswith(".venv/bin/"):
        assert shutil.which(program.removeprefix(".venv/bin/"), path=str(BIN)) is not None
    else:
        assert program == "make"


def test_what_a_hook_watches_is_there() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout.splitlines()
    for hook in HOOKS:
        if "files" in hook:
            for alternative in re.split(r"\|(?=[\^_])", hook["files"]):
                assert any(re.search(alternative, path) for path in listed), alternative
