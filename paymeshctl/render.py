"""What the command line prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.common.v1.money_pb2 import Money
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2 as payment_pb
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mesh.money import format_minor

# Of a table that is no longer on a terminal; a piped table must not be cut at 80 columns.
_PIPED_WIDTH = 200

_STATE_STYLES = {
    "SUCCEEDED": "green",
    "PARTIALLY_SUCCEEDED": "yellow",
    "DECLINED": "red",
    "FAILED": "red",
    "PARKED": "magenta",
    "NEEDS_ATTENTION": "magenta",
}


def console() -> Console:
    """The terminal, or what stands in its place."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def print_json(message: Message) -> None:
    """Prints an answer as one JSON object in one line, in the names of its .proto."""
    print(json.dumps(to_json(message), ensure_ascii=False), flush=True)


def to_json(message: Message) -> dict[str, Any]:
    """The message as JSON: like proto3's own, but whole numbers stay numbers.

    Names as in the .proto, enums by name, times in RFC 3339. Every field is there; a
    message that is not set is null.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def payment_table(payment: payment_pb.Payment) -> Table:
    """A payment and its orders."""
    title = (
        f"payment {payment.payment_id} {state_name(payment_pb.PaymentState, payment.state)}"
        f"\nrequest_id {escape(payment.request_id)}, buyer {escape(payment.buyer_id)}"
    )
    table = new_table(
        "order", "seller", "amount", "commission", "state", "PSP reference", "evidence", title=title
    )
    for order in payment.orders:
        table.add_row(
            order.order_id,
            escape(order.seller_id),
            money(order.amount),
            money(order.commission),
            styled(payment_pb.OrderState, order.state),
            escape(psp_reference(order)) + _trouble(order),
            evidence(order),
        )
    return table


def change_line(payment: payment_pb.Payment) -> str:
    """A payment at one moment: when it changed, and how it and its orders stand then."""
    orders = ", ".join(
        f"{escape(order.seller_id)} {styled(payment_pb.OrderState, order.state)}{_trouble(order)}"
        for order in payment.orders
    )
    state = styled(payment_pb.PaymentState, payment.state)
    return f"{time_text(payment.update_time)}  {state}  {orders}"


def payments_table(payments: Iterable[payment_pb.Payment]) -> Table:
    """A page of payments, one line each."""
    table = new_table("payment", "created", "buyer", "orders", "amount", "state")
    for payment in payments:
        table.add_row(
            payment.payment_id,
            time_text(payment.create_time),
            escape(payment.buyer_id),
            str(len(payment.orders)),
            sums(order.amount for order in payment.orders),
            styled(payment_pb.PaymentState, payment.state),
        )
    return table


def wallets_table(wallets: Iterable[wallet_pb.Wallet]) -> Table:
    """Sellers' balances."""
    table = new_table(
        *("wallet of", "currency", "pending", "available", "reserved", "debt"), right=(2, 3, 4, 5)
    )
    for wallet in wallets:
        for balance in wallet.balances:
            currency = balance.currency_code
            table.add_row(
                escape(wallet.seller_id),
                currency,
                format_minor(balance.pending_minor, currency),
                format_minor(balance.available_minor, currency),
                format_minor(balance.reserved_minor, currency),
                format_minor(balance.debt_minor, currency),
            )
    return table


def movements_table(movements: Iterable[wallet_pb.Movement]) -> Table:
    """A page of a seller's movements."""
    table = new_table("movement", "created", "kind", "amount", "order", right=(3,))
    for movement in movements:
        table.add_row(
            movement.movement_id,
            time_text(movement.create_time),
            state_name(wallet_pb.MovementKind, movement.kind),
            money(movement.amount),
            movement.order_id,
        )
    return table


def trial_balance_table(rows: Sequence[ledger_pb.TrialBalanceRow]) -> Table:
    """The trial balance, with a line of sums for each currency."""
    table = new_table("account", "currency", "debit", "credit", title="trial balance", right=(2, 3))
    for row in rows:
        currency = row.currency_code
        table.add_row(
            account_name(row.account),
            currency,
            format_minor(row.debit_minor, currency),
            format_minor(row.credit_minor, currency),
        )
    table.add_section()
    for currency, (debit, credit) in sorted(trial_balance_sums(rows).items()):
        table.add_row(
            "sum, balanced" if debit == credit else "sum, NOT BALANCED",
            currency,
            format_minor(debit, currency),
            format_minor(credit, currency),
            style="bold" if debit == credit else "bold red",
        )
    return table


def trial_balance_sums(
    rows: Iterable[ledger_pb.TrialBalanceRow],
) -> dict[str, tuple[int, int]]:
    """Currency → the sums of debits and of credits, in minor units."""
    sums_: dict[str, tuple[int, int]] = {}
    for row in rows:
        debit, credit = sums_.get(row.currency_code, (0, 0))
        sums_[row.currency_code] = (debit + row.debit_minor, credit + row.credit_minor)
    return sums_


def account_name(account: ledger_pb.Account) -> str:
    """An account as `psp_receivable psp_stub`."""
    parts = (
        state_name(ledger_pb.AccountKind, account.kind).lower(),
        account.owner_id,
        account.source,
    )
    return escape(" ".join(part for part in parts if part))


def money(amount: Money) -> str:
    """An amount in major units with its currency; nothing for one that is not set."""
    if not amount.currency_code:
        return ""
    return f"{format_minor(amount.amount_minor, amount.currency_code)} {amount.currency_code}"


def sums(amounts: Iterable[Money]) -> str:
    """The sum of amounts for each currency."""
    by_currency: dict[str, int] = defaultdict(int)
    for amount in amounts:
        by_currency[amount.currency_code] += amount.amount_minor
    return ", ".join(
        f"{format_minor(minor, currency)} {currency}"
        for currency, minor in sorted(by_currency.items())
    )


def psp_reference(order: payment_pb.PaymentOrder) -> str:
    """The PSP's reference of the order's last operation, as far as it is known."""
    return order.operations[-1].psp_reference if order.operations else ""


def evidence(order: payment_pb.PaymentOrder) -> str:
    """Where the evidence for the order's last operation comes from, as `answer`."""
    if not order.operations:
        return ""
    name = state_name(payment_pb.EvidenceSource, order.operations[-1].source)
    words = {
        "PSP_ANSWER": "answer",
        "PSP_LOOK_UP": "look-up",
        "SETTLEMENT_FILE": "settlement file",
        "UNSPECIFIED": "",
    }
    return words.get(name, name)


def state_name(enum: Any, value: int) -> str:
    """An enum's value without the enum's prefix; the number of one that is newer than us."""
    try:
        name: str = enum.Name(value)
    except ValueError:
        return str(value)
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix)


def styled(enum: Any, value: int) -> str:
    """A state in its colour."""
    name = state_name(enum, value)
    style = _STATE_STYLES.get(name)
    return f"[{style}]{name}[/{style}]" if style else name


def time_text(time: Timestamp) -> str:
    """A time in UTC, to the second."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")


def _trouble(order: payment_pb.PaymentOrder) -> str:
    """Why an order was declined or parked, for the cell of its PSP reference."""
    if order.HasField("decline"):
        category = state_name(payment_pb.DeclineCategory, order.decline.category)
        return f" declined: {category} ({escape(order.decline.code)})"
    return f" {escape(order.attention_reason)}" if order.attention_reason else ""


def new_table(*columns: str, title: str | None = None, right: Sequence[int] = ()) -> Table:
    """An empty table; right: the numbers of its columns of figures."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        # Ids are to be copied: a cell is never cut, it goes on in the next line.
        table.add_column(column, justify="right" if number in right else "left", overflow="fold")
    return table


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return to_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value
