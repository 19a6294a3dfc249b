"""Many payments over streams of CreatePayments, each asked for until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.payment.v1.payment_service_pb2_grpc import PaymentServiceStub

from mesh.errors import Reason
from mesh.status import from_status
from tests.support.mesh import RunningMesh, open_channel

IN_FLIGHT = 1_500
"""Of one stream. What waits for the PSP is most of it."""

_STREAMS = 2
_AGAIN_AFTER_S = 0.5
# With these the caller is told to come again.
_AGAIN = frozenset({Reason.OVERLOADED, Reason.DEPENDENCY_DOWN, Reason.OUTCOME_UNKNOWN})


@dataclass
class Paid:
    """What callers were told: each payment as it was first told, and the refusals before it."""

    payments: dict[str, pb.Payment] = field(default_factory=dict)
    """By request_id."""
    refusals: Counter[Reason] = field(default_factory=Counter)


def pay_all(mesh: RunningMesh, requests: Sequence[service_pb.CreatePaymentRequest]) -> Paid:
    """Sends the requests, and those again that were refused for now."""
    paid = Paid()
    left = list(requests)
    while left:
        threads = [
            threading.Thread(target=_stream, args=(mesh, left[at::_STREAMS], paid))
            for at in range(_STREAMS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = [one for one in left if one.request_id not in paid.payments]
        if left:
            time.sleep(_AGAIN_AFTER_S)
    return paid


def _stream(
    mesh: RunningMesh, requests: Sequence[service_pb.CreatePaymentRequest], paid: Paid
) -> None:
    room = threading.Semaphore(IN_FLIGHT)

    def items() -> Iterator[service_pb.CreatePaymentsRequest]:
        for index, request in enumerate(requests):
            room.acquire()
            yield service_pb.CreatePaymentsRequest(index=index, request=request)

    with open_channel(mesh.supervisor.target("payment")) as channel:
        for answer in PaymentServiceStub(channel).CreatePayments(items()):
            room.release()
            if answer.HasField("payment"):
                paid.payments[answer.request_id] = answer.payment
                continue
            refusal = from_status(answer.error)
            assert refusal.reason in _AGAIN, refusal
            paid.refusals[refusal.reason] += 1
