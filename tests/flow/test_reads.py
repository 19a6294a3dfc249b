"""What can be read of payments, wallets and ledger, and that all of them say the same."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb

from tests.support.checkout import new_checkout, new_order
from tests.support.mesh import RunningMesh, fresh
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("balanced_books")

TIMEOUT_S = 10


# --- one payment --------------------------------------------------------------------------


def test_a_payment_is_found_by_both_keys(mesh: RunningMesh) -> None:
    request = new_checkout()
    payment = mesh.pay(request, caller="shop-2")

    by_id = _get(mesh, payment_id=payment.payment_id)
    of_shop = _get(mesh, request_id=request.request_id, caller="shop-2")
    of_asker = mesh.payments.GetPayment(
        service_pb.GetPaymentRequest(request_id=request.request_id),
        metadata=(("paymesh-caller", "shop-2"),),
        timeout=TIMEOUT_S,
    ).payment

    assert by_id == of_shop == of_asker == payment


def test_another_caller_has_no_such_payment(mesh: RunningMesh) -> None:
    request = new_checkout()
    payment = mesh.pay(request)

    for key in (
        {"request_id": request.request_id, "caller": "shop-2"},
        {"request_id": fresh("request")},
        {"payment_id": payment.orders[0].order_id},
        {"payment_id": "0" * 32},
    ):
        refusal = refused(lambda key=key: _get(mesh, **key))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "PAYMENT_NOT_FOUND")
        assert refusal.domain == "paymesh"


def test_times_of_a_payment(mesh: RunningMesh) -> None:
    before = datetime.now(UTC)
    payment = mesh.paid(new_checkout("tok_ok", new_order(), new_order()))

    made = payment.create_time.ToDatetime(UTC)
    assert before - timedelta(seconds=1) < made < datetime.now(UTC) + timedelta(seconds=1)
    assert payment.update_time.ToDatetime(UTC) > made
    for order in payment.orders:
        for operation in order.operations:
            assert operation.create_time.ToDatetime(UTC) >= made


def test_ids_of_a_payment_are_ids_of_their_own(mesh: RunningMesh) -> None:
    payment = mesh.pay(new_checkout("tok_ok", *[new_order() for _ in range(5)]))

    ids = [payment.payment_id]
    for order in payment.orders:
        ids += [order.order_id, *(operation.operation_id for operation in order.operations)]
    assert len(set(ids)) == 11
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in ids)


# --- lists of payments --------------------------------------------------------------------


def test_filters(mesh: RunningMesh) -> None:
    buyer, other_buyer, seller = fresh("buyer"), fresh("buyer"), fresh("seller")
    good = mesh.paid(new_checkout("tok_ok", new_order(seller_id=seller), buyer_id=buyer))
    bad = mesh.paid(new_checkout("tok_declined", new_order(seller_id=seller), buyer_id=buyer))
    odd = mesh.paid(new_checkout("tok_wrong_amount", new_order(), buyer_id=buyer))
    two = mesh.paid(
        new_checkout(
            "tok_ok", new_order(seller_id=seller), new_order(seller_id=seller), buyer_id=other_buyer
        )
    )

    assert _list(mesh, buyer_id=buyer) == [odd, bad, good]
    # An order each of the same seller: still one payment.
    assert _list(mesh, seller_id=seller) == [two, bad, good]
    assert _list(mesh, seller_id=seller, buyer_id=buyer) == [bad, good]
    assert _list(mesh, buyer_id=buyer, state=pb.PAYMENT_STATE_SUCCEEDED) == [good]
    assert _list(mesh, buyer_id=buyer, state=pb.PAYMENT_STATE_FAILED) == [bad]
    assert _list(mesh, buyer_id=buyer, state=pb.PAYMENT_STATE_NEEDS_ATTENTION) == [odd]
    assert _list(mesh, seller_id=seller, state=pb.PAYMENT_STATE_SUCCEEDED) == [two, good]
    assert _list(mesh, buyer_id=buyer, state=pb.PAYMENT_STATE_VOIDED) == []
    assert _list(mesh, buyer_id=fresh("buyer")) == []


def test_times_are_from_inclusive_to_exclusive(mesh: RunningMesh) -> None:
    buyer = fresh("buyer")
    first, second, third = [mesh.paid(new_checkout(buyer_id=buyer)) for _ in range(3)]

    def listed(**times: Timestamp) -> list[pb.Payment]:
        return _list(mesh, buyer_id=buyer, **times)

    assert listed(create_time_from=second.create_time) == [third, second]
    assert listed(create_time_to=second.create_time) == [first]
    assert listed(create_time_from=first.create_time, create_time_to=third.create_time) == [
        second,
        first,
    ]
    assert listed(create_time_from=second.create_time, create_time_to=second.create_time) == []
    later = Timestamp()
    later.FromNanoseconds(second.create_time.ToNanoseconds() + 1)
    assert listed(create_time_from=later) == [third]
    assert listed(create_time_to=later) == [second, first]


@pytest.mark.parametrize("by", ["buyer_id", "seller_id"])
def test_pages_are_stable_under_inserts(mesh: RunningMesh, by: str) -> None:
    buyer, seller = fresh("buyer"), fresh("seller")
    filters = {"buyer_id": buyer} if by == "buyer_id" else {"seller_id": seller}

    def pay() -> pb.Payment:
        order = new_order(seller_id=seller)
        return mesh.paid(new_checkout("tok_ok", order, order, buyer_id=buyer))

    payments = [pay() for _ in range(5)]

    first = _page(mesh, "", **filters)
    pay()
    second = _page(mesh, first.next_page_token, **filters)
    pay()
    third = _page(mesh, second.next_page_token, **filters)

    assert [*first.payments, *second.payments, *third.payments] == payments[::-1]
    assert [len(page.payments) for page in (first, second, third)] == [2, 2, 1]
    assert third.next_page_token == ""
    # The same page again is the same page.
    assert _page(mesh, first.next_page_token, **filters) == second


def test_the_last_page_may_be_full(mesh: RunningMesh) -> None:
    buyer = fresh("buyer")
    for _ in range(2):
        mesh.paid(new_checkout(buyer_id=buyer))

    assert _page(mesh, "", buyer_id=buyer).next_page_token == ""


def test_a_page_ends_before_2_mib(mesh: RunningMesh) -> None:
    buyer, long = fresh("buyer"), "𝄞" * 255
    orders = [new_order(seller_id=long, reference=long) for _ in range(100)]
    payments = [mesh.pay(new_checkout("tok_none", *orders, buyer_id=buyer)) for _ in range(10)]
    payments = [mesh.rested(payment.payment_id) for payment in payments]
    assert sum(payment.ByteSize() for payment in payments) > 2 * 1024**2

    found: list[pb.Payment] = []
    pages, token = 0, ""
    while pages == 0 or token:
        page = mesh.payments.ListPayments(
            service_pb.ListPaymentsRequest(buyer_id=buyer, page_size=1000, page_token=token),
            timeout=TIMEOUT_S,
        )
        assert page.payments
        assert page.ByteSize() < 2 * 1024**2 + 1024
        found += page.payments
        pages, token = pages + 1, page.next_page_token

    assert pages > 1
    assert found == payments[::-1]


def test_default_and_most_of_a_page(mesh: RunningMesh) -> None:
    buyer = fresh("buyer")
    calls = [
        mesh.payments.CreatePayment.future(new_checkout("tok_none", buyer_id=buyer), timeout=30)
        for _ in range(51)
    ]
    for call in calls:
        call.result()

    listed = mesh.payments.ListPayments(service_pb.ListPaymentsRequest(buyer_id=buyer))
    most = mesh.payments.ListPayments(
        service_pb.ListPaymentsRequest(buyer_id=buyer, page_size=2**31 - 1)
    )

    assert len(listed.payments) == 50
    assert listed.next_page_token
    assert len(most.payments) == 51
    assert not most.next_page_token
    keys = [(payment.create_time.ToNanoseconds(), payment.payment_id) for payment in most.payments]
    assert keys == sorted(keys, reverse=True)


# --- wallet and ledger --------------------------------------------------------------------


def test_wallet_and_ledger_agree_with_the_payment(mesh: RunningMesh) -> None:
    seller, other = fresh("seller"), fresh("seller")
    payment = mesh.paid(
        new_checkout(
            "tok_ok",
            new_order(10_000, 1_000, seller_id=seller),
            new_order(2_500, None, seller_id=seller),
            new_order(700, 700, seller_id=other),
            new_order(9_000, 450, currency="JPY", seller_id=seller),
        )
    )
    assert payment.state == pb.PAYMENT_STATE_SUCCEEDED

    wallet = mesh.wallets.GetWallet(wallet_pb.GetWalletRequest(seller_id=seller)).wallet
    assert wallet.seller_id == seller
    assert [(b.currency_code, b.pending_minor) for b in wallet.balances] == [
        ("EUR", 11_500),
        ("JPY", 8_550),
    ]
    assert all(
        (b.available_minor, b.reserved_minor, b.debt_minor) == (0, 0, 0) for b in wallet.balances
    )
    for balance in wallet.balances:
        assert _pending(mesh, seller, balance.currency_code) == balance.pending_minor
    assert _pending(mesh, other, "EUR") == 0

    movements = mesh.wallets.ListMovements(
        wallet_pb.ListMovementsRequest(seller_id=seller)
    ).movements
    assert {(m.order_id, m.amount.amount_minor, m.amount.currency_code) for m in movements} == {
        (payment.orders[0].order_id, 9_000, "EUR"),
        (payment.orders[1].order_id, 2_500, "EUR"),
        (payment.orders[3].order_id, 8_550, "JPY"),
    }
    assert {movement.kind for movement in movements} == {wallet_pb.MOVEMENT_KIND_CAPTURE}


def test_journals_of_an_order(mesh: RunningMesh) -> None:
    payment = mesh.paid(new_checkout("tok_ok", new_order(10_000, 1_000)))
    (order,) = payment.orders
    fee = mesh.count(
        "psp_stub", "SELECT fee_minor FROM truth WHERE order_id = %s::uuid", order.order_id
    )

    journals = _journals(mesh, order_id=order.order_id)

    assert fee > 0
    assert {
        journal.kind: sorted(
            (entry.account.kind, entry.direction, entry.amount.amount_minor)
            for entry in journal.entries
        )
        for journal in journals
    } == {
        ledger_pb.JOURNAL_KIND_CAPTURE: sorted(
            [
                (ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, ledger_pb.DIRECTION_DEBIT, 10_000),
                (ledger_pb.ACCOUNT_KIND_SELLER_PENDING, ledger_pb.DIRECTION_CREDIT, 9_000),
                (ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE, ledger_pb.DIRECTION_CREDIT, 1_000),
            ]
        ),
        ledger_pb.JOURNAL_KIND_PSP_FEE: sorted(
            [
                (ledger_pb.ACCOUNT_KIND_PSP_FEE_EXPENSE, ledger_pb.DIRECTION_DEBIT, fee),
                (ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE, ledger_pb.DIRECTION_CREDIT, fee),
            ]
        ),
    }
    for journal in journals:
        assert journal.order_id == order.order_id
        assert journal.operation_id == order.operations[0].operation_id
        assert journal.reverses == ""
        assert {entry.amount.currency_code for entry in journal.entries} == {"EUR"}


def test_what_was_not_captured_is_in_no_book(mesh: RunningMesh) -> None:
    seller = fresh("seller")
    payment = mesh.paid(new_checkout("tok_declined", new_order(seller_id=seller)))

    wallet = mesh.wallets.GetWallet(wallet_pb.GetWalletRequest(seller_id=seller)).wallet
    assert wallet.seller_id == seller
    assert not wallet.balances
    assert not mesh.wallets.ListMovements(
        wallet_pb.ListMovementsRequest(seller_id=seller)
    ).movements
    assert not _journals(mesh, order_id=payment.orders[0].order_id)
    assert _pending(mesh, seller, "EUR") == 0


def test_pages_of_movements_and_journals(mesh: RunningMesh) -> None:
    seller = fresh("seller")
    orders: list[str] = []
    for _ in range(3):
        payment = mesh.paid(new_checkout("tok_ok", new_order(seller_id=seller)))
        orders.insert(0, payment.orders[0].order_id)
    account = ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SELLER_PENDING, owner_id=seller)

    movements = wallet_pb.ListMovementsRequest(seller_id=seller, page_size=2)
    first = mesh.wallets.ListMovements(movements)
    journals = ledger_pb.ListJournalsRequest(account=account, page_size=2)
    first_journals = mesh.ledger.ListJournals(journals)
    mesh.paid(new_checkout("tok_ok", new_order(seller_id=seller)))
    movements.page_token = first.next_page_token
    second = mesh.wallets.ListMovements(movements)
    journals.page_token = first_journals.next_page_token
    second_journals = mesh.ledger.ListJournals(journals)

    assert [m.order_id for m in [*first.movements, *second.movements]] == orders
    assert second.next_page_token == ""
    found = [*first_journals.journals, *second_journals.journals]
    assert [journal.order_id for journal in found] == orders
    assert second_journals.next_page_token == ""


def test_balances_as_of_a_time(mesh: RunningMesh) -> None:
    seller = fresh("seller")
    first = mesh.paid(new_checkout("tok_ok", new_order(1_000, 0, seller_id=seller)))
    mesh.paid(new_checkout("tok_ok", new_order(500, 0, seller_id=seller)))
    (booked,) = {
        journal.create_time.ToNanoseconds()
        for journal in _journals(mesh, order_id=first.orders[0].order_id)
    }

    def pending_as_of(nanoseconds: int) -> int:
        time = Timestamp()
        time.FromNanoseconds(nanoseconds)
        return _pending(mesh, seller, "EUR", as_of_time=time)

    assert pending_as_of(booked - 1_000) == 0
    assert pending_as_of(booked) == 1_000
    assert _pending(mesh, seller, "EUR") == 1_500


def test_trial_balance_is_the_sum_of_what_was_booked(mesh: RunningMesh) -> None:
    before = _trial_balance(mesh)
    payment = mesh.paid(
        new_checkout("tok_ok", new_order(10_000, 1_000), new_order(400, 0), new_order(9, 9))
    )
    after = _trial_balance(mesh)
    fees = mesh.count(
        "psp_stub",
        "SELECT sum(fee_minor) FROM truth WHERE order_id = ANY (%s::uuid[])",
        [order.order_id for order in payment.orders],
    )

    grown = {
        kind: tuple(a - b for a, b in zip(sums, before.get(kind, (0, 0)), strict=True))
        for kind, sums in after.items()
    }

    assert {kind: sums for kind, sums in grown.items() if sums != (0, 0)} == {
        ledger_pb.ACCOUNT_KIND_PSP_RECEIVABLE: (10_409, fees),
        ledger_pb.ACCOUNT_KIND_SELLER_PENDING: (0, 9_400),
        ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE: (0, 1_009),
        ledger_pb.ACCOUNT_KIND_PSP_FEE_EXPENSE: (fees, 0),
    }


def _get(mesh: RunningMesh, **keys: str) -> pb.Payment:
    return mesh.payments.GetPayment(
        service_pb.GetPaymentRequest(**keys),
        timeout=TIMEOUT_S,
    ).payment


def _list(mesh: RunningMesh, **filters: object) -> list[pb.Payment]:
    request = service_pb.ListPaymentsRequest(**filters)  # type: ignore[arg-type]
    return list(mesh.payments.ListPayments(request, timeout=TIMEOUT_S).payments)


def _page(
    mesh: RunningMesh, token: str, *, buyer_id: str = "", seller_id: str = ""
) -> service_pb.ListPaymentsResponse:
    """A page of two."""
    request = service_pb.ListPaymentsRequest(
        buyer_id=buyer_id, seller_id=seller_id, page_size=2, page_token=token
    )
    return mesh.payments.ListPayments(request, timeout=TIMEOUT_S)


def _journals(mesh: RunningMesh, order_id: str) -> Iterable[ledger_pb.Journal]:
    return mesh.ledger.ListJournals(
        ledger_pb.ListJournalsRequest(order_id=order_id), timeout=TIMEOUT_S
    ).journals


def _pending(
    mesh: RunningMesh, seller: str, currency: str, *, as_of_time: Timestamp | None = None
) -> int:
    return mesh.ledger.GetBalance(
        ledger_pb.GetBalanceRequest(
            account=ledger_pb.Account(kind=ledger_pb.ACCOUNT_KIND_SELLER_PENDING, owner_id=seller),
            currency_code=currency,
            as_of_time=as_of_time,
        ),
        timeout=TIMEOUT_S,
    ).balance_minor


def _trial_balance(mesh: RunningMesh) -> dict[int, tuple[int, int]]:
    """Debits and credits by kind of account, in EUR; they add up to the same."""
    rows = [
        row
        for row in mesh.ledger.GetTrialBalance(ledger_pb.GetTrialBalanceRequest()).rows
        if row.currency_code == "EUR"
    ]
    assert sum(row.debit_minor for row in rows) == sum(row.credit_minor for row in rows)
    assert not any(row.account.owner_id for row in rows)
    return {row.account.kind: (row.debit_minor, row.credit_minor) for row in rows}
