"""LedgerReadService through real gRPC, on a real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_posting_service_pb2 as posting_pb
from paymesh.ledger.v1 import ledger_read_service_pb2 as pb
from paymesh.ledger.v1 import ledger_service_pb2
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub

from ledger_svc.config import Settings
from ledger_svc.main import wire
from mesh import ids
from mesh.errors import Reason
from tests.support.captures import new_seller, new_source
from tests.support.serving import error_of, serving


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(databases: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    settings = Settings(port=0, database_url=databases["ledger"], drain_s=0)
    async with serving(wire, settings) as channel:
        yield channel


def new_event(
    *, order_id: str = "", revision: int = 0, operation_id: str = ""
) -> posting_pb.LedgerEvent:
    return posting_pb.LedgerEvent(
        operation_id=operation_id or uuid.uuid4().hex,
        revision=revision,
        order_id=order_id or uuid.uuid4().hex,
        capture=posting_pb.CaptureEvent(
            seller_id=new_seller(),
            source=new_source(),
            captured=Money(amount_minor=100, currency_code="EUR"),
            seller_pending_minor=90,
            commission_minor=10,
            fee=Money(amount_minor=3, currency_code="EUR"),
        ),
    )


def ref(operation_id: str, order_id: str) -> pb.BookedOperation:
    return pb.BookedOperation(operation_id=operation_id, order_id=order_id)


async def find(channel: grpc.aio.Channel, *refs: pb.BookedOperation) -> list[str]:
    request = pb.FindJournalsRequest(operations=refs)
    response = await LedgerReadServiceStub(channel).FindJournals(request)
    return sorted(journal.journal_id for journal in response.journals)


def own(event: posting_pb.LedgerEvent) -> list[str]:
    operation, revision = uuid.UUID(event.operation_id), event.revision
    return [ids.journal_id(kind, operation, revision).hex for kind in ("capture", "psp_fee")]


async def test_journals_are_found_by_operation_and_by_order(channel: grpc.aio.Channel) -> None:
    event, other = new_event(), new_event()
    again = new_event(order_id=event.order_id)
    revised = new_event(order_id=event.order_id, operation_id=event.operation_id, revision=1)
    await LedgerPostingServiceStub(channel).PostEvents(
        posting_pb.PostEventsRequest(events=[event, other, again, revised])
    )
    nobody = uuid.uuid4().hex
    assert await find(channel, ref(event.operation_id, nobody)) == sorted(own(event))
    of_order = sorted([*own(event), *own(again), *own(revised)])
    assert await find(channel, ref(nobody, event.order_id)) == of_order
    both = ref(event.operation_id, event.order_id)
    assert await find(channel, both, both) == of_order
    assert await find(channel, ref(nobody, nobody)) == []
    assert await find(channel) == []


async def test_journals_are_told_as_a_list_tells_them(channel: grpc.aio.Channel) -> None:
    event = new_event()
    await LedgerPostingServiceStub(channel).PostEvents(posting_pb.PostEventsRequest(events=[event]))
    request = pb.FindJournalsRequest(operations=[ref(event.operation_id, event.order_id)])
    found = await LedgerReadServiceStub(channel).FindJournals(request)
    listed = await LedgerServiceStub(channel).ListJournals(
        ledger_service_pb2.ListJournalsRequest(order_id=event.order_id)
    )
    assert {journal.journal_id: journal for journal in found.journals} == {
        journal.journal_id: journal for journal in listed.journals
    }
    assert sorted(len(journal.entries) for journal in found.journals) == [2, 3]


async def test_a_thousand_are_one_call(channel: grpc.aio.Channel) -> None:
    events = [new_event() for _ in range(1000)]
    await LedgerPostingServiceStub(channel).PostEvents(posting_pb.PostEventsRequest(events=events))
    refs = [ref(event.operation_id, event.order_id) for event in events]
    assert await find(channel, *refs) == sorted(key for event in events for key in own(event))


@pytest.mark.parametrize(
    ("refs", "field"),
    [
        ([ref("x", uuid.uuid4().hex)], "operations[0].operation_id"),
        ([ref(uuid.uuid4().hex, "")], "operations[0].order_id"),
        ([ref(uuid.uuid4().hex, uuid.uuid4().hex)] * 1001, "operations"),
    ],
    ids=["operation", "order", "too_many"],
)
async def test_bad_ids_are_refused_by_their_place(
    channel: grpc.aio.Channel, refs: list[pb.BookedOperation], field: str
) -> None:
    request = pb.FindJournalsRequest(operations=refs)
    error = await error_of(LedgerReadServiceStub(channel).FindJournals(request))
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == [field]
