"""Children that die with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import processes
from mesh.processes import spawn

REPOSITORY = Path(__file__).parents[2]
SLEEP = ["/bin/sleep", "600"]

# Starts a child that outlives every polite end of its parent, and says its pid.
PARENT = """
import signal, sys, time
from mesh import processes
processes.KERNEL_SIGNALS_ORPHANS = sys.argv[1] == "kernel"
child = processes.spawn(["/bin/sleep", "600"], death_signal=signal.SIGKILL)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_answers_on_its_output_and_with_its_exit_code(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        child = spawn(
            ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], death_signal=9, stdout=file
        )
    assert child.wait(10) == 3
    assert output.read_text() == "out\nerr\n"


def test_a_child_gets_exactly_the_environment_and_folder_that_it_is_given(tmp_path: Path) -> None:
    child = spawn(
        [
            "/bin/sh",
            "-c",
            '[ "$A" = b ] && [ -z "$HOME" ] && : > here',
        ],
        death_signal=9,
        env={"A": "b"},
        cwd=tmp_path,
    )
    assert child.wait(10) == 0
    assert (tmp_path / "here").exists()


def test_a_program_that_does_not_exist_ends_with_127_and_says_so(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        child = spawn(["/nowhere/program"], death_signal=9, stdout=file)
    assert child.wait(10) == 127
    assert output.read_text() == "cannot execute /nowhere/program: No such file or directory\n"


@pytest.mark.parametrize(
    "means",
    [
        pytest.param(
            "kernel",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's"),
        ),
        "watchdog",
    ],
)
def test_a_child_dies_when_its_parent_is_killed(means: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, means], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    _wait_until(lambda: _command(child) == "sleep")
    parent.kill()
    parent.wait(10)
    _wait_until(lambda: not _is_running(child), timeout_s=2)
    parent.stdout.close()


def test_a_child_whose_parent_is_already_gone_does_not_begin(tmp_path: Path) -> None:
    began = tmp_path / "began"
    not_our_pid = os.getppid()
    child = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            processes._DIE_WITH_PARENT,
            "9",
            str(not_our_pid),
            "-1",
            "-1",
            "-1",
            "/bin/sh",
            "-c",
            f": > {began}",
        ],
        check=False,
    )
    assert child.returncode == 1
    assert not began.exists()


@pytest.mark.parametrize("kernel", [True, False])
def test_a_watched_child_that_ends_by_itself_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, *, kernel: bool
) -> None:
    if kernel and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    monkeypatch.setattr(processes, "KERNEL_SIGNALS_ORPHANS", kernel)
    descriptors = _open_descriptors()
    child = spawn(["/bin/sh", "-c", "exit 0"], death_signal=signal.SIGKILL)
    pid = child.pid
    assert child.wait(10) == 0
    _wait_until(lambda: not _session_members(pid))
    del child
    assert _open_descriptors() == descriptors


def test_ctrl_c_in_the_terminal_reaches_the_parent_only() -> None:
    child = spawn(SLEEP, death_signal=signal.SIGKILL)
    try:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    finally:
        child.kill()
        child.wait(10)


def test_what_python_ignores_a_child_does_not_ignore() -> None:
    child = spawn(["/bin/sh", "-c", "kill -PIPE $$; exit 0"], death_signal=9)
    assert child.wait(10) == -signal.SIGPIPE


def test_a_child_of_another_thread_is_refused() -> None:
    refused: list[str] = []

    def attempt() -> None:
        with pytest.raises(RuntimeError) as error:
            spawn(SLEEP, death_signal=signal.SIGKILL)
        refused.append(str(error.value))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in refused[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("kernel", [True, False])
def test_root_starts_a_child_as_another_user_without_any_right_of_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, kernel: bool
) -> None:
    if kernel and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    monkeypatch.setattr(processes, "KERNEL_SIGNALS_ORPHANS", kernel)
    output = tmp_path / "output"
    with output.open("wb") as file:
        child = spawn(
            ["/bin/sh", "-c", "id -ru; id -u; id -rg; id -g; id -G; umask"],
            death_signal=9,
            stdout=file,
            user=(65534, 65533),
            cwd=Path("/"),
        )
    assert child.wait(10) == 0
    assert output.read_text().split() == ["65534", "65534", "65533", "65533", "65533", "0077"]


def _wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def _open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout


def _command(pid: int) -> str:
    return _ps("-o", "comm=", "-p", str(pid)).strip()


def _is_running(pid: int) -> bool:
    state = _ps("-o", "stat=", "-p", str(pid)).strip()
    return state != "" and not state.startswith("Z")


def _session_members(leader: int) -> list[str]:
    """The living processes of a child's session, such as its watchdog."""
    rows = (row.split() for row in _ps("-A", "-o", "pid=,sess=,stat=").splitlines())
    return [pid for pid, session, state in rows if session == str(leader) and state[0] != "Z"]
