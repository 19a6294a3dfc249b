"""What a flow is, for whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from mesh.errors import Reason
from mesh.status import from_rpc_error
from tests.faults.checker import Sessions
from tests.faults.engine.faults import Kind
from tests.faults.engine.mesh import FailingMesh

AGAIN_S = 0.01
"""After which a caller calls again."""

# What a caller may be told while parts of the mesh are away; it calls again.
_PASSING = frozenset(
    {Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN, Reason.OVERLOADED, Reason.UNSPECIFIED}
)


class Attempt(Protocol):
    """A flow on its way, with ids of its own."""

    told: list[str]
    """What the caller heard, for people."""

    async def prepare(self, mesh: FailingMesh) -> None:
        """What is there before anything fails."""

    async def drive(self, mesh: FailingMesh) -> None:
        """Asks until all is done; asked again, nothing more happens.

        Raises TimeoutError, and what no fault excuses.
        """

    def compare(self, books: Sessions) -> list[str]:
        """What is wrong in the end."""


@dataclass(frozen=True, slots=True)
class Flow:
    """begin: makes an attempt. settings: of services, beyond those of every mesh.

    replicas: of payment_svc. spared: faults, with their points, that nobody's design survives.
    waits: for seconds, so that it is part of `make faults` and not of `make test`.
    """

    begin: Callable[[], Attempt]
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    replicas: int = 1
    spared: frozenset[tuple[str, Kind]] = frozenset()
    waits: bool = False


def passing(error: grpc.RpcError) -> str:
    """The reason of a refusal after which one calls again; raises the others."""
    refusal = from_rpc_error(error)
    if refusal.reason not in _PASSING:
        raise error
    return refusal.reason.value
