"""Whether what is known of an order in all books is the same. No I/O.

The order is read before the others are asked. So of an order that has ended, the others can
only be as far as it or further, and any difference is one; of an order on its way, only what
can't change any more is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from mesh.money import Money
from payment_svc.checked import (
    ENDED_AS,
    NOT_ENDED,
    Booked,
    Books,
    CheckedOrder,
    CheckedPayment,
    Executed,
    Execution,
    Finding,
    FindingKind,
    Line,
    LookUp,
)
from payment_svc.domain import OrderState, payment_state

_K = FindingKind


def of_payment(payment: CheckedPayment) -> Iterator[Finding]:
    """What its own rows contradict each other in."""
    missing = payment.order_count - len(payment.orders) - payment.without_operation
    if missing or payment.without_operation:
        yield Finding(
            _K.PAYMENT_DIFFERS,
            payment.payment_id,
            None,
            f"{payment.order_count} orders, each with its charge",
            f"{missing} orders gone, {payment.without_operation} without a charge",
        )
        return
    derived = payment_state([order.state for order in payment.orders])
    if payment.state is not derived:
        yield Finding(
            _K.PAYMENT_DIFFERS,
            payment.payment_id,
            None,
            f"{derived.name}, by its orders",
            payment.state.name,
        )


OF_OPERATIONS = frozenset({"capture", "psp_fee"})
"""The kinds of journals that operations book. What the reconciliation books beside them, for a
difference that a settlement file has, names the order too, and is judged by its runs."""


class Comparison:
    """Orders against what the others know of them."""

    def __init__(self, books: Books) -> None:
        """`books`: read after the orders."""
        self._books = books
        self._of_order: dict[UUID, list[Booked]] = {}
        self._of_operation: dict[UUID, list[Booked]] = {}
        for journal in books.booked:
            if journal.kind not in OF_OPERATIONS:
                continue
            self._of_order.setdefault(journal.order_id, []).append(journal)
            self._of_operation.setdefault(journal.operation_id, []).append(journal)

    def findings(self, order: CheckedOrder) -> list[Finding]:
        """All that is found of the order."""
        return [
            Finding(kind, order.payment_id, order, expected, found)
            for kind, expected, found in (
                *self._executor(order),
                *self._psp(order),
                *self._wallet(order),
                *self._ledger(order),
                *self._standing(order),
            )
        ]

    def _executor(self, order: CheckedOrder) -> Iterator[_Found]:
        executed = self._books.executed.get(order.operation_id)
        ended = ENDED_AS.get(order.state)
        if executed is None:
            if ended in (Execution.CAPTURED, Execution.DECLINED):
                said = self._look_up_text(order) or "none"
                yield _K.EXECUTOR_MISSING, f"an operation that is {ended.name}", said
            return
        if order.ended_uncaptured and executed.state is Execution.CAPTURED:
            yield _K.CAPTURE_LOST, order.state.name, f"captured {executed.captured}"
            return
        expected, found = [], []
        if ended is not None and executed.state is not ended:
            expected.append(ended.name)
            found.append(executed.state.name)
        asked = (executed.amount, executed.order_id, executed.payment_id)
        if asked != (order.amount, order.order_id, order.payment_id):
            expected.append(_asked_text(order.amount, order.order_id, order.payment_id))
            found.append(_asked_text(*asked))
        if order.operation_minor != order.amount.amount_minor:
            expected.append(f"a charge of {order.amount}")
            found.append(f"of {Money(order.operation_minor, order.amount.currency_code)}")
        if executed.state is Execution.CAPTURED:
            if executed.captured != executed.amount:
                expected.append(f"captured {executed.amount}")
                found.append(f"captured {executed.captured}")
            reference = order.psp_reference
            if order.state is OrderState.SUCCEEDED and executed.psp_reference != reference:
                expected.append(f"psp_reference {reference or 'none'}")
                found.append(f"psp_reference {executed.psp_reference or 'none'}")
        if expected:
            yield _K.EXECUTOR_DIFFERS, ", ".join(expected), ", ".join(found)

    def _psp(self, order: CheckedOrder) -> Iterator[_Found]:
        told = self._books.looked_up.get(order.operation_id)
        if told is None or told.result in (LookUp.NOT_FOUND, LookUp.NO_ANSWER):
            return  # no evidence of anything
        executed = self._books.executed.get(order.operation_id)
        says = self._look_up_text(order)
        if executed is None:
            # Of one that is just being sent the row may have come after we looked.
            known = ENDED_AS.get(order.state) is Execution.CAPTURED or order.under_way
            if told.result is LookUp.CAPTURED and not known:
                yield _K.PSP_CONTRADICTS, "nothing was asked by the executor", says
        elif executed.state is Execution.CAPTURED:
            same = told.result is LookUp.CAPTURED and told.captured == executed.captured
            if not same or told.psp_reference not in ("", executed.psp_reference):
                expected = f"captured {executed.captured}, psp_reference {executed.psp_reference}"
                yield _K.PSP_CONTRADICTS, expected, says
        elif executed.state is Execution.DECLINED and told.result is LookUp.CAPTURED:
            yield _K.PSP_CONTRADICTS, "declined", says

    def _wallet(self, order: CheckedOrder) -> Iterator[_Found]:
        moved = self._books.moved.get(order.operation_id)
        credit = Money(
            order.amount.amount_minor - order.commission_minor, order.amount.currency_code
        )
        expected = f"{credit} to {order.seller_id}"
        if moved is None:
            if order.state is OrderState.SUCCEEDED:
                yield _K.MOVEMENT_MISSING, expected, "none"
            return
        found = f"{moved.amount} to {moved.seller_id}"
        if order.ended_uncaptured:
            yield _K.MOVEMENT_UNFOUNDED, f"none: the order is {order.state.name}", found
            return
        split = (moved.pending_minor, moved.available_minor, moved.debt_minor)
        if (moved.seller_id, moved.amount, split) != (
            order.seller_id,
            credit,
            (credit.amount_minor, 0, 0),
        ):
            parts = "pending {}, available {}, debt {}".format(*split)
            yield _K.MOVEMENT_DIFFERS, f"{expected}, all of it pending", f"{found}, {parts}"
        elif moved.order_id != order.order_id:
            yield _K.MOVEMENT_DIFFERS, f"order {order.order_id.hex}", f"order {moved.order_id.hex}"

    def _ledger(self, order: CheckedOrder) -> Iterator[_Found]:
        own = self._of_operation.get(order.operation_id, [])
        others = [
            journal
            for journal in self._of_order.get(order.order_id, ())
            if journal.operation_id != order.operation_id
        ]
        if order.ended_uncaptured:
            if own or others:
                found = _journals_text([*own, *others])
                yield _K.JOURNAL_UNFOUNDED, f"none: the order is {order.state.name}", found
            return
        kinds = {journal.kind: journal for journal in reversed(own)}
        surplus = [*others, *(j for j in own if kinds[j.kind] is not j)]
        if surplus:
            expected = "no journals beside those of the operation"
            yield _K.JOURNAL_SURPLUS, expected, _journals_text(surplus)
        executed = self._books.executed.get(order.operation_id)
        if not kinds:
            if order.state is OrderState.SUCCEEDED:
                yield _K.JOURNAL_MISSING, f"a capture of {order.amount}", "none"
            return
        if executed is None or executed.state is not Execution.CAPTURED:
            return  # which is told already, and leaves source and fee unknown
        lines = expected_lines(order, executed)
        stored = {kind: _sorted(journal.lines) for kind, journal in kinds.items()}
        strayed = [j for j in kinds.values() if j.order_id != order.order_id]
        if stored != lines or strayed:
            wanted = _lines_text(lines) + f", of order {order.order_id.hex}" * bool(strayed)
            has = _lines_text(stored)
            has += "".join(f", {j.kind} of order {j.order_id.hex}" for j in strayed)
            yield _K.JOURNAL_DIFFERS, wanted, has

    def _standing(self, order: CheckedOrder) -> Iterator[_Found]:
        """How an order stands that has not ended."""
        if order.state not in NOT_ENDED or order.state is OrderState.AUTHORIZED:
            return
        executed = self._books.executed.get(order.operation_id)
        state = executed.state if executed is not None else None
        knows = state is Execution.CAPTURED or state is Execution.DECLINED
        # What it knows of the money it keeps, whatever the executor says.
        if knows and not order.captured_minor and not order.under_way:
            text = f"{order.state.name}{_because(order)}, and not to be driven soon"
            yield _K.ORDER_BEHIND, f"what the executor knows: {_name(state)}", text
        elif order.state is not OrderState.PARKED and not (order.driven or order.scheduled):
            text = f"{order.state.name}, and nobody does"
            yield _K.ORDER_ABANDONED, "that somebody drives the order", text
        elif order.state in (OrderState.PARKED, OrderState.UNKNOWN):
            kind = _K.ORDER_PARKED if order.state is OrderState.PARKED else _K.ORDER_UNKNOWN
            said = self._look_up_text(order)
            text = f"{order.state.name}{_because(order)}; the executor: {_name(state)}"
            yield kind, "", text + (f"; {said}" if said else "")

    def _look_up_text(self, order: CheckedOrder) -> str:
        """What the PSP says, in words; empty where it was not asked."""
        told = self._books.looked_up.get(order.operation_id)
        if told is None:
            return ""
        text = f"the PSP says {told.result.name}"
        if told.captured is not None:
            text += f" {told.captured}"
        return text + (f", psp_reference {told.psp_reference}" if told.psp_reference else "")


_Found = tuple[FindingKind, str, str]


def expected_lines(order: CheckedOrder, executed: Executed) -> dict[str, list[Line]]:
    """By kind, the sorted entries that a capture of the order has in the ledger."""
    currency = order.amount.currency_code
    receivable = f"psp_receivable {executed.source}"
    credit = Money(order.amount.amount_minor - order.commission_minor, currency)
    lines = {
        "capture": [
            Line("debit", receivable, order.amount),
            Line("credit", f"seller_pending {order.seller_id}", credit),
            Line("credit", "commission_revenue", Money(order.commission_minor, currency)),
        ]
    }
    if executed.fee is not None:
        lines["psp_fee"] = [
            Line("debit", f"psp_fee_expense {executed.source}", executed.fee),
            Line("credit", receivable, executed.fee),
        ]
    kept = {
        kind: _sorted(line for line in lines[kind] if line.amount.amount_minor) for kind in lines
    }
    return {kind: some for kind, some in kept.items() if some}


def _sorted(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=str)


def _because(order: CheckedOrder) -> str:
    return f" ({order.attention_reason})" if order.attention_reason else ""


def _name(state: Execution | None) -> str:
    return "nothing" if state is None else state.name


def _asked_text(amount: Money, order_id: UUID, payment_id: UUID) -> str:
    return f"asked {amount} for order {order_id.hex} of payment {payment_id.hex}"


def _journals_text(journals: Sequence[Booked]) -> str:
    return "; ".join(f"{j.kind} journal {j.journal_id.hex}" for j in journals)


def _lines_text(lines: Mapping[str, Sequence[Line]]) -> str:
    return "; ".join(f"{kind}: {', '.join(map(str, some))}" for kind, some in sorted(lines.items()))
