"""ledger_svc through real gRPC, with the whole interceptor chain, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_posting_service_pb2 as posting_pb
from paymesh.ledger.v1 import ledger_service_pb2 as pb
from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceStub
from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceStub

from ledger_svc.config import Settings
from ledger_svc.main import wire
from mesh import ids, paging
from mesh.errors import Code, MeshError, Reason
from mesh.status import from_status
from tests.support.captures import new_seller, new_source
from tests.support.ports import free_port
from tests.support.serving import error_of, serving

if TYPE_CHECKING:
    from paymesh.ledger.v1.ledger_posting_service_pb2_grpc import LedgerPostingServiceAsyncStub
    from paymesh.ledger.v1.ledger_service_pb2_grpc import LedgerServiceAsyncStub


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(databases: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    settings = Settings(port=0, database_url=databases["ledger"], drain_s=0)
    async with serving(wire, settings) as channel:
        yield channel


@pytest.fixture
def ledger(channel: grpc.aio.Channel) -> LedgerServiceAsyncStub:
    return LedgerServiceStub(channel)


@pytest.fixture
def postings(channel: grpc.aio.Channel) -> LedgerPostingServiceAsyncStub:
    return LedgerPostingServiceStub(channel)


def euro(amount_minor: int) -> Money:
    return Money(amount_minor=amount_minor, currency_code="EUR")


def event(*, revision: int = 0, order_id: str = "", **change: Any) -> posting_pb.LedgerEvent:
    """A capture that no other test knows."""
    fields: dict[str, Any] = {
        "seller_id": new_seller(),
        "source": new_source(),
        "captured": euro(100),
        "seller_pending_minor": 90,
        "commission_minor": 10,
    }
    return posting_pb.LedgerEvent(
        operation_id=uuid.uuid4().hex,
        revision=revision,
        order_id=order_id or uuid.uuid4().hex,
        capture=posting_pb.CaptureEvent(**{**fields, **change}),
    )


def request(*events: posting_pb.LedgerEvent) -> posting_pb.PostEventsRequest:
    return posting_pb.PostEventsRequest(events=events)


def refused(result: posting_pb.PostEventResult) -> MeshError:
    assert result.WhichOneof("result") == "error", result
    return from_status(result.error)


def receivable(source: str) -> pb.Account:
    return pb.Account(kind=pb.ACCOUNT_KIND_PSP_RECEIVABLE, source=source)


def pending(seller_id: str) -> pb.Account:
    return pb.Account(kind=pb.ACCOUNT_KIND_SELLER_PENDING, owner_id=seller_id)


async def balance(
    ledger: LedgerServiceAsyncStub,
    account: pb.Account,
    currency_code: str = "EUR",
    as_of_time: Timestamp | None = None,
) -> int:
    response = await ledger.GetBalance(
        pb.GetBalanceRequest(account=account, currency_code=currency_code, as_of_time=as_of_time)
    )
    return response.balance_minor


def entry(account: pb.Account, direction: pb.Direction.ValueType, amount: Money) -> pb.Entry:
    return pb.Entry(account=account, direction=direction, amount=amount)


async def test_what_was_captured_in_a_currency_that_is_withdrawn_since_is_booked(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    asked = event(captured=Money(amount_minor=100, currency_code="DEM"))
    response = await postings.PostEvents(request(asked))
    assert response.results[0].WhichOneof("result") == "posted"
    assert await balance(ledger, receivable(asked.capture.source), "DEM") == 100


async def test_a_capture_with_a_fee(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    asked = event(fee=euro(3))
    capture = asked.capture
    response = await postings.PostEvents(request(asked))

    operation = uuid.UUID(asked.operation_id)
    journal_ids = [ids.journal_id(kind, operation).hex for kind in ("capture", "psp_fee")]
    assert list(response.results[0].posted.journal_ids) == journal_ids

    listed = await ledger.ListJournals(pb.ListJournalsRequest(order_id=asked.order_id))
    assert listed.next_page_token == ""
    journals = {journal.journal_id: journal for journal in listed.journals}
    assert set(journals) == set(journal_ids)
    for journal in listed.journals:
        assert journal.operation_id == asked.operation_id
        assert journal.order_id == asked.order_id
        assert journal.reverses == ""
        age = datetime.now(UTC) - journal.create_time.ToDatetime(tzinfo=UTC)
        assert abs(age) < timedelta(minutes=1)
    assert journals[journal_ids[0]].kind == pb.JOURNAL_KIND_CAPTURE
    assert list(journals[journal_ids[0]].entries) == [
        entry(receivable(capture.source), pb.DIRECTION_DEBIT, euro(100)),
        entry(pending(capture.seller_id), pb.DIRECTION_CREDIT, euro(90)),
        entry(pb.Account(kind=pb.ACCOUNT_KIND_COMMISSION_REVENUE), pb.DIRECTION_CREDIT, euro(10)),
    ]
    expense = pb.Account(kind=pb.ACCOUNT_KIND_PSP_FEE_EXPENSE, source=capture.source)
    assert journals[journal_ids[1]].kind == pb.JOURNAL_KIND_PSP_FEE
    assert list(journals[journal_ids[1]].entries) == [
        entry(expense, pb.DIRECTION_DEBIT, euro(3)),
        entry(receivable(capture.source), pb.DIRECTION_CREDIT, euro(3)),
    ]
    assert await balance(ledger, receivable(capture.source)) == 97
    assert await balance(ledger, pending(capture.seller_id)) == 90
    assert await balance(ledger, expense) == 3


async def test_a_replay_answers_the_same(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    asked = event(fee=euro(3))
    responses = await asyncio.gather(*(postings.PostEvents(request(asked)) for _ in range(16)))
    assert all(response == responses[0] for response in responses)
    assert await balance(ledger, pending(asked.capture.seller_id)) == 90


async def test_other_amounts_under_the_same_operation(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    asked = event()
    await postings.PostEvents(request(asked))
    other = posting_pb.LedgerEvent()
    other.CopyFrom(asked)
    other.capture.fee.CopyFrom(euro(3))
    response = await postings.PostEvents(request(other, asked))

    error = refused(response.results[0])
    assert error.reason is Reason.OPERATION_CONFLICT
    assert error.code is Code.ALREADY_EXISTS
    assert error.metadata == {"fields": "capture.fee.amount_minor"}
    assert response.results[1].HasField("posted")
    assert await balance(ledger, receivable(asked.capture.source)) == 100


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"order_id": "1"}, Reason.VALIDATION_FAILED, "order_id"),
        ({"revision": -1}, Reason.VALIDATION_FAILED, "revision"),
        ({"seller_id": ""}, Reason.VALIDATION_FAILED, "capture.seller_id"),
        ({"source": ""}, Reason.VALIDATION_FAILED, "capture.source"),
        ({"source": "s" * 64}, Reason.VALIDATION_FAILED, "capture.source"),
        ({"captured": None}, Reason.VALIDATION_FAILED, "capture.captured"),
        (
            {"captured": euro(0), "seller_pending_minor": 0, "commission_minor": 0},
            Reason.VALIDATION_FAILED,
            "capture.captured",
        ),
        ({"commission_minor": 11}, Reason.VALIDATION_FAILED, "capture"),
        ({"seller_pending_minor": 0}, Reason.VALIDATION_FAILED, "capture"),
        (
            {"seller_pending_minor": 110, "commission_minor": -10},
            Reason.VALIDATION_FAILED,
            "capture.commission_minor",
        ),
        ({"fee": euro(-1)}, Reason.VALIDATION_FAILED, "capture.fee.amount_minor"),
        (
            {"captured": Money(amount_minor=100, currency_code="XXA")},
            Reason.UNKNOWN_CURRENCY,
            "capture.captured.currency_code",
        ),
        (
            {"fee": Money(amount_minor=1, currency_code="XXA")},
            Reason.UNKNOWN_CURRENCY,
            "capture.fee.currency_code",
        ),
    ],
)
async def test_a_bad_item_fails_alone(
    postings: LedgerPostingServiceAsyncStub, change: dict[str, Any], reason: Reason, field: str
) -> None:
    response = await postings.PostEvents(request(event(), event(**change), event()))

    assert [result.WhichOneof("result") for result in response.results] == [
        "posted",
        "error",
        "posted",
    ]
    error = refused(response.results[1])
    assert error.reason is reason
    assert error.code is Code.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == [field]


async def test_an_event_of_no_kind(postings: LedgerPostingServiceAsyncStub) -> None:
    nothing = posting_pb.LedgerEvent(operation_id=uuid.uuid4().hex, order_id=uuid.uuid4().hex)
    response = await postings.PostEvents(request(nothing))
    assert refused(response.results[0]).reason is Reason.VALIDATION_FAILED


async def test_lists_of_any_length(postings: LedgerPostingServiceAsyncStub) -> None:
    assert (await postings.PostEvents(request())).results == []
    many = [event(fee=euro(1)) for _ in range(1000)]
    response = await postings.PostEvents(request(*many))
    assert [result.posted.journal_ids[0] for result in response.results] == [
        ids.journal_id("capture", uuid.UUID(one.operation_id)).hex for one in many
    ]
    error = await error_of(postings.PostEvents(request(*many, event())))
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == ["events"]


S, P = pb.ACCOUNT_KIND_SELLER_PENDING, pb.ACCOUNT_KIND_PSP_RECEIVABLE
C = pb.ACCOUNT_KIND_COMMISSION_REVENUE


@pytest.mark.parametrize(
    ("account", "fields"),
    [
        (pb.Account(kind=S), ["account.owner_id"]),
        (pb.Account(kind=S, owner_id="s", source="psp"), ["account.source"]),
        (pb.Account(kind=P), ["account.source"]),
        (pb.Account(kind=P, owner_id="s"), ["account.owner_id", "account.source"]),
        (pb.Account(kind=C, owner_id="s"), ["account.owner_id"]),
        (pb.Account(owner_id="s"), ["account.kind"]),
        (pb.Account(kind=99, owner_id="s"), ["account.kind"]),  # type: ignore[arg-type]
        (pb.Account(kind=S, owner_id="s" * 256), ["account.owner_id"]),
    ],
)
async def test_an_account_that_there_cannot_be(
    ledger: LedgerServiceAsyncStub, account: pb.Account, fields: list[str]
) -> None:
    for call in (
        ledger.GetBalance(pb.GetBalanceRequest(account=account, currency_code="EUR")),
        ledger.ListJournals(pb.ListJournalsRequest(account=account)),
    ):
        error = await error_of(call)
        assert error.reason is Reason.VALIDATION_FAILED
        assert error.code is Code.INVALID_ARGUMENT
        assert [violation.field for violation in error.violations] == fields


async def test_a_balance_of_no_account(ledger: LedgerServiceAsyncStub) -> None:
    error = await error_of(ledger.GetBalance(pb.GetBalanceRequest(currency_code="EUR")))
    assert [violation.field for violation in error.violations] == ["account"]


@pytest.mark.parametrize(
    ("currency_code", "reason"),
    [
        ("", Reason.VALIDATION_FAILED),
        ("eur", Reason.VALIDATION_FAILED),
        ("XXA", Reason.UNKNOWN_CURRENCY),
        ("XXX", Reason.UNKNOWN_CURRENCY),
        ("XAU", Reason.UNKNOWN_CURRENCY),
    ],
)
async def test_a_bad_currency(
    ledger: LedgerServiceAsyncStub, currency_code: str, reason: Reason
) -> None:
    asked = pb.GetBalanceRequest(account=pending("s"), currency_code=currency_code)
    error = await error_of(ledger.GetBalance(asked))
    assert error.reason is reason
    assert error.code is Code.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == ["currency_code"]


async def test_a_balance_as_of_a_time(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    asked = event()
    await postings.PostEvents(request(asked))
    (journal,) = (
        await ledger.ListJournals(pb.ListJournalsRequest(order_id=asked.order_id))
    ).journals
    account, written = pending(asked.capture.seller_id), journal.create_time

    def moved(nanos: int) -> Timestamp:
        time = Timestamp()
        time.FromNanoseconds(written.ToNanoseconds() + nanos)
        return time

    assert await balance(ledger, account, as_of_time=written) == 90
    assert await balance(ledger, account, as_of_time=moved(1)) == 90
    assert await balance(ledger, account, as_of_time=moved(-1)) == 0
    assert await balance(ledger, account, as_of_time=Timestamp()) == 0


@pytest.mark.parametrize(
    "time",
    [Timestamp(seconds=10**12), Timestamp(seconds=-(10**12)), Timestamp(seconds=1, nanos=-1)],
)
async def test_what_is_not_a_time(ledger: LedgerServiceAsyncStub, time: Timestamp) -> None:
    balance_of = pb.GetBalanceRequest(account=pending("s"), currency_code="EUR", as_of_time=time)
    for call in (
        ledger.GetBalance(balance_of),
        ledger.GetTrialBalance(pb.GetTrialBalanceRequest(as_of_time=time)),
    ):
        error = await error_of(call)
        assert error.reason is Reason.VALIDATION_FAILED
        assert [violation.field for violation in error.violations] == ["as_of_time"]


async def test_the_trial_balance(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    source = new_source()
    await postings.PostEvents(request(*(event(source=source, fee=euro(3)) for _ in range(5))))
    rows = (await ledger.GetTrialBalance(pb.GetTrialBalanceRequest())).rows

    assert pb.TrialBalanceRow(
        account=receivable(source), currency_code="EUR", debit_minor=500, credit_minor=15
    ) in list(rows)
    assert not [row for row in rows if row.account.owner_id]
    sellers = [row for row in rows if row.account.kind == pb.ACCOUNT_KIND_SELLER_PENDING]
    assert len(sellers) == len({row.currency_code for row in sellers})
    net: Counter[str] = Counter()
    for row in rows:
        net[row.currency_code] += row.debit_minor - row.credit_minor
    assert not any(net.values())

    before = await ledger.GetTrialBalance(pb.GetTrialBalanceRequest(as_of_time=Timestamp()))
    assert before.rows == []


async def test_pages(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    source, order_id = new_source(), uuid.uuid4().hex
    events = [event(source=source, order_id=order_id, fee=euro(1)) for _ in range(60)]
    await postings.PostEvents(request(*events))

    for key in ({"order_id": order_id}, {"account": receivable(source)}):
        everything = await ledger.ListJournals(pb.ListJournalsRequest(**key, page_size=5000))
        assert len(everything.journals) == 120
        assert everything.next_page_token == ""
        assert len((await ledger.ListJournals(pb.ListJournalsRequest(**key))).journals) == 50
        listed: list[pb.Journal] = []
        token = ""
        while token or not listed:
            response = await ledger.ListJournals(
                pb.ListJournalsRequest(**key, page_size=40, page_token=token)
            )
            assert len(response.journals) == 40
            listed += response.journals
            token = response.next_page_token
        assert listed == list(everything.journals)


async def test_a_page_ends_before_its_bytes(
    ledger: LedgerServiceAsyncStub,
    postings: LedgerPostingServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = new_source()
    await postings.PostEvents(request(*(event(source=source) for _ in range(10))))
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1000)
    listed: list[str] = []
    token = ""
    while token or not listed:
        response = await ledger.ListJournals(
            pb.ListJournalsRequest(account=receivable(source), page_token=token)
        )
        assert 1 <= len(response.journals) <= 4
        assert response.ByteSize() < 1200
        listed += [journal.journal_id for journal in response.journals]
        token = response.next_page_token
    assert len(listed) == len(set(listed)) == 10


async def test_which_journals(ledger: LedgerServiceAsyncStub) -> None:
    for asked in (
        pb.ListJournalsRequest(),
        pb.ListJournalsRequest(order_id="0" * 32, account=pending("s")),
        pb.ListJournalsRequest(order_id="0"),
    ):
        assert (await error_of(ledger.ListJournals(asked))).reason is Reason.VALIDATION_FAILED
    none = await ledger.ListJournals(pb.ListJournalsRequest(order_id=uuid.uuid4().hex))
    assert none == pb.ListJournalsResponse()


async def test_a_page_token_from_elsewhere(
    ledger: LedgerServiceAsyncStub, postings: LedgerPostingServiceAsyncStub
) -> None:
    asked = event(fee=euro(1))
    await postings.PostEvents(request(asked))
    by_order = pb.ListJournalsRequest(order_id=asked.order_id, page_size=1)
    token = (await ledger.ListJournals(by_order)).next_page_token
    assert token
    by_account = pb.ListJournalsRequest(account=receivable(asked.capture.source), page_token=token)
    error = await error_of(ledger.ListJournals(by_account))
    assert error.reason is Reason.VALIDATION_FAILED
    assert [violation.field for violation in error.violations] == ["page_token"]


async def test_a_database_that_is_down() -> None:
    url = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    async with serving(wire, Settings(port=0, database_url=url, drain_s=0)) as channel:
        postings, ledger = LedgerPostingServiceStub(channel), LedgerServiceStub(channel)
        for call in (
            postings.PostEvents(request(event(), event())),
            ledger.GetTrialBalance(pb.GetTrialBalanceRequest()),
            ledger.GetBalance(pb.GetBalanceRequest(account=pending("s"), currency_code="EUR")),
            ledger.ListJournals(pb.ListJournalsRequest(account=pending("s"))),
        ):
            error = await error_of(call)
            assert error.reason is Reason.DEPENDENCY_DOWN
            assert error.code is Code.UNAVAILABLE
            assert "secret" not in str(error)
        # What is wrong with an item is known without a database.
        response = await postings.PostEvents(request(event(seller_id=""), event()))
        assert [refused(result).reason for result in response.results] == [
            Reason.VALIDATION_FAILED,
            Reason.DEPENDENCY_DOWN,
        ]
