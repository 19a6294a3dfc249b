"""Many payments in two books at once: charged by the stub, booked in the ledger, in lists."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_posting_service_pb2 as posting_pb
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.ledger.v1.operation_register_service_pb2_grpc import OperationRegisterServiceStub
from paymesh.payment.v1 import payment_pb2
from paymesh.psp.v1 import psp_service_pb2 as psp_pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub

from mesh import ids

SOURCE = "psp_stub"

LIST = 500
_DEADLINE_S = 120.0
_ATTEMPTS = 20
_AGAIN_AFTER_S = 1.0
# As many lists under way as keep both services at work.
_LISTS_AT_ONCE = 2


class Charge(NamedTuple):
    """A payment's one charge, as its books have it. psp_reference: by the stub."""

    operation_id: str
    order_id: str
    currency: str
    amount: int
    fee: int = 0
    psp_reference: str = ""

    @property
    def net(self) -> int:
        return self.amount - self.fee


def new_charges(amounts: Sequence[int], currency: str) -> list[Charge]:
    """Charges of new orders, with ids as payment_svc computes them."""
    orders = [uuid.uuid4() for _ in amounts]
    return [
        Charge(ids.first_charge_id(order).hex, order.hex, currency, amount)
        for order, amount in zip(orders, amounts, strict=True)
    ]


def random_amounts(chance: random.Random, count: int) -> list[int]:
    """Amounts of which some occur twice, all of them far above what a fault changes."""
    return [chance.randint(10_000, 10_000 + max(count, 100)) for _ in range(count)]


class Books:
    """The stub and the ledger of a mesh."""

    def __init__(self, psp: grpc.Channel, ledger: grpc.Channel) -> None:
        self._psp = PspServiceStub(psp)
        self._postings = LedgerPostingServiceStub(ledger)
        self._register = OperationRegisterServiceStub(ledger)

    def currencies(self) -> list[str]:
        """All that the stub charges in."""
        told = self._psp.GetCapabilities(psp_pb.GetCapabilitiesRequest(), timeout=_DEADLINE_S)
        return sorted(one.currency_code for one in told.currencies)

    def capture(self, charges: Sequence[Charge]) -> list[Charge]:
        """Captures and books these; as the stub answered them."""
        done: list[Charge] = []
        with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
            for part in pool.map(self._capture_list, _lists(charges)):
                done += part
        return done

    def decline(self, charges: Sequence[Charge]) -> list[Charge]:
        """Has these declined, and tells the ledger's register of it."""
        done = []
        for part in _lists(charges):
            outcomes = self._charge(part, "tok_declined")
            done += [
                one._replace(psp_reference=outcomes[one.operation_id].declined.psp_reference)
                for one in part
            ]
        self.register(done, register_pb.REGISTER_STATE_DECLINED)
        return done

    def capture_silently(self, charges: Sequence[Charge]) -> list[Charge]:
        """Captures these at the stub, while we know of each only that it was sent."""
        done = [one for part in _lists(charges) for one in self._captured(part)]
        self.register(
            [one._replace(psp_reference="") for one in done], register_pb.REGISTER_STATE_UNKNOWN
        )
        return done

    def book(self, charges: Sequence[Charge]) -> None:
        """Writes the journals of these captures."""
        for part in _lists(charges):
            request = posting_pb.PostEventsRequest(events=[_event(one) for one in part])
            results = self._post(request).results
            assert [one.WhichOneof("result") for one in results] == ["posted"] * len(part)

    def register(
        self, charges: Sequence[Charge], state: register_pb.RegisterState.ValueType
    ) -> None:
        """Tells the ledger's register of these."""
        for part in _lists(charges):
            request = register_pb.RegisterOperationsRequest(
                operations=[
                    register_pb.RegisteredOperation(
                        operation_id=one.operation_id,
                        order_id=one.order_id,
                        payment_id=uuid.uuid4().hex,
                        kind=payment_pb2.OPERATION_KIND_CHARGE,
                        amount=_money(one.amount, one.currency),
                        state=state,
                        version=1,
                        psp_reference=one.psp_reference,
                    )
                    for one in part
                ]
            )
            results = self._register.RegisterOperations(request, timeout=_DEADLINE_S).results
            assert [one.WhichOneof("result") for one in results] == ["registered"] * len(part)

    def _post(self, request: posting_pb.PostEventsRequest) -> posting_pb.PostEventsResponse:
        """Once more where the ledger says that it stored nothing: it is busy."""
        for _ in range(_ATTEMPTS):
            try:
                return self._postings.PostEvents(request, timeout=_DEADLINE_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                time.sleep(_AGAIN_AFTER_S)
        raise AssertionError(f"the ledger was too busy {_ATTEMPTS} times")

    def _capture_list(self, charges: Sequence[Charge]) -> list[Charge]:
        done = self._captured(charges)
        self.book(done)
        return done

    def _captured(self, charges: Sequence[Charge]) -> list[Charge]:
        outcomes = self._charge(charges, "tok_ok")
        done = []
        for one in charges:
            told = outcomes[one.operation_id].captured
            assert (told.amount.amount_minor, told.amount.currency_code) == (
                one.amount,
                one.currency,
            )
            done.append(one._replace(fee=told.fee.amount_minor, psp_reference=told.psp_reference))
        return done

    def _charge(self, charges: Sequence[Charge], token: str) -> dict[str, psp_pb.ChargeOutcome]:
        operations = {_psp_key(one): one.operation_id for one in charges}
        items = [
            psp_pb.ChargeItem(
                idempotency_key=key,
                operation_id=one.operation_id,
                order_id=one.order_id,
                payment_method=token,
                amount=_money(one.amount, one.currency),
            )
            for key, one in zip(operations, charges, strict=True)
        ]
        responses = self._psp.Charge(psp_pb.ChargeRequest(items=items), timeout=_DEADLINE_S)
        return {
            operations[outcome.idempotency_key]: outcome
            for response in responses
            for outcome in response.outcomes
        }


def _lists(charges: Sequence[Charge]) -> Iterator[Sequence[Charge]]:
    for at in range(0, len(charges), LIST):
        yield charges[at : at + LIST]


def _psp_key(charge: Charge) -> str:
    return ids.psp_key(uuid.UUID(charge.operation_id)).hex


def _money(amount_minor: int, currency: str) -> Money:
    return Money(amount_minor=amount_minor, currency_code=currency)


def _event(charge: Charge) -> posting_pb.LedgerEvent:
    capture = posting_pb.CaptureEvent(
        seller_id=f"seller-{int(charge.order_id[-2:], 16)}",
        source=SOURCE,
        captured=_money(charge.amount, charge.currency),
        seller_pending_minor=charge.amount,
        psp_reference=charge.psp_reference,
    )
    if charge.fee:
        capture.fee.CopyFrom(_money(charge.fee, charge.currency))
    return posting_pb.LedgerEvent(
        operation_id=charge.operation_id, order_id=charge.order_id, capture=capture
    )
