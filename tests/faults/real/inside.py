"""Inside a service's process: it ends or stops itself where the plan says so.

The plan is a file that may change at any time: whoever tests writes it, and each process looks
at it wherever it passes. A fault happens once, in whichever process passes its moment first;
that it did is told by a file as well, because nothing in the process outlives it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from typing import Any, NamedTuple

import grpc
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import failpoints
from mesh.db import Database
from mesh.failpoints import Moment
from tests.support.passing_channel import PassingChannel

FOLDER = "FAULTS_FOLDER"
"""The environment variable that names the folder of plan and marks; without it, nothing is."""

PLAN = "plan.json"


class Kind(StrEnum):
    """What happens at a moment. Whoever is not killed is stopped, until all has happened."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP"
    POSTGRES = "POSTGRES"
    """PostgreSQL stops at once and is started again meanwhile."""
    COMMIT = "COMMIT"
    """The commit that follows is done, and its connection cut before it is answered."""


class Fault(NamedTuple):
    """That something happens when `point` is passed the nth time.

    point: `payment_svc BEFORE payment.write`, `payment_svc ASKS PspService/Charge`.
    """

    point: str
    kind: str
    nth: int = 1


class Plan(NamedTuple):
    """What is to happen, in this order: a fault is armed when the one before it happened.

    name: another one for each scenario. listen: whether all that is passed is written down.
    """

    name: str
    faults: list[Fault]
    listen: bool = False

    def fired(self, folder: Path, number: int) -> Path:
        """The file that says that the fault of this number happened, and to which process."""
        return folder / f"{self.name}.{number}"

    def passed(self, folder: Path) -> Path:
        """The file of what was passed."""
        return folder / f"{self.name}.passed"


def install() -> None:
    """Lets this process fail, if it is a service's and a folder is named."""
    folder = os.environ.get(FOLDER)
    with suppress(ValueError, IndexError):
        service = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        if folder and service.endswith(("_svc", "_stub")):
            failpoints.install(_Points(service, Path(folder)))


class _Points:
    """The failpoints of a process."""

    def __init__(self, service: str, folder: Path) -> None:
        self._service = service
        self._folder = folder
        self._plan = Plan("", [])
        self._read = (0, 0)
        self._counts: Counter[str] = Counter()

    def database(self, database: Database) -> None:
        """Nothing has to be known of it."""

    async def commit(self, name: str, moment: Moment, connection: AsyncConnection) -> None:
        """Just before a commit, or just after it."""
        self.at(f"{moment.name} {name}")

    async def read(self, name: str, connection: AsyncConnection) -> None:
        """A read changes nothing, so nothing is to be found there."""

    def channel(self, target: str, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        """The channel, with a moment before each call and after each answer."""
        return _Channel(channel, self.at)

    def at(self, moment: str) -> None:
        """Passes a moment."""
        point = f"{self._service} {moment}"
        plan = self._current()
        self._counts[point] += 1
        if plan.listen:
            with plan.passed(self._folder).open("a") as passed:
                passed.write(f"{point}\n")
        for number, fault in enumerate(plan.faults):
            if plan.fired(self._folder, number).exists():
                continue
            if fault.point == point and fault.nth <= self._counts[point]:
                self._happen(plan.fired(self._folder, number), fault)
            return

    def _happen(self, mark: Path, fault: Fault) -> None:
        text = str(os.getpid())
        with suppress(FileExistsError), mark.open("x") as file:
            file.write(text)
            file.flush()
            os.kill(os.getpid(), SIGKILL if fault.kind == Kind.KILL else SIGSTOP)

    def _current(self) -> Plan:
        path = self._folder / PLAN
        status = path.stat()
        # Two within one tick of the file system's clock are two files.
        if (found := (status.st_ino, status.st_mtime_ns)) != self._read:
            name, faults, listen = json.loads(path.read_text())
            self._plan = Plan(name, [Fault(*fault) for fault in faults], listen)
            self._read = found
            self._counts.clear()
        return self._plan


class _Channel(PassingChannel):
    """A channel whose calls tell when they are asked and answered."""

    def __init__(self, real: grpc.aio.Channel, at: Callable[[str], None]) -> None:
        super().__init__(real)
        self._at = at

    def unary_unary(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.unary_unary(method, *args, **more)
        return self._once(method, real)

    def stream_unary(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.stream_unary(method, *args, **more)
        return self._once(method, real)

    def unary_stream(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.unary_stream(method, *args, **more)

        def call(request: Any, **options: Any) -> _Responses:
            self._at(f"ASKS {_short(method)}")
            return _Responses(real(request, **options), method, self._at)

        return call

    def stream_stream(self, method: str, *args: Any, **more: Any) -> Any:
        real: Any = self._real.stream_stream(method, *args, **more)

        async def telling(requests: Any) -> AsyncIterator[Any]:
            async for request in requests:
                self._at(f"ASKS {_short(method)}")
                yield request

        def call(requests: Any, **options: Any) -> _Responses:
            return _Responses(real(telling(requests), **options), method, self._at)

        return call

    def _once(self, method: str, real: Any) -> Callable[..., asyncio.Future[Any]]:
        async def asked(request: Any, options: Any) -> Any:
            self._at(f"ASKS {_short(method)}")
            answer = await real(request, **options)
            self._at(f"IS ANSWERED {_short(method)}")
            return answer

        return lambda request, **options: asyncio.ensure_future(asked(request, options))


class _Responses:
    """What a streaming call answers."""

    def __init__(self, real: Any, method: str, at: Callable[[str], None]) -> None:
        self._real = real
        self._method = method
        self._at = at

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in self._real:
            self._at(f"IS ANSWERED {_short(self._method)}")
            yield response

    def cancel(self) -> None:
        """The caller has heard enough."""
        self._real.cancel()


def _short(method: str) -> str:
    return method.rpartition(".")[2]
