"""What the demo shows and proves: each payment's way, and that all books say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2
from paymesh.wallet.v1 import wallet_service_pb2 as wallet_pb
from rich import box
from rich.markup import escape
from rich.table import Table

from mesh.money import Money
from paymeshctl import render

_SELLER_KINDS = (
    ledger_pb.ACCOUNT_KIND_SELLER_PENDING,
    ledger_pb.ACCOUNT_KIND_SELLER_AVAILABLE,
    ledger_pb.ACCOUNT_KIND_SELLER_RESERVED,
)


@dataclass(frozen=True)
class Story:
    """One payment and its traces. journals and movements are by order_id."""

    title: str
    method: str
    expected: payment_pb2.PaymentState.ValueType
    payment: payment_pb2.Payment
    seconds: float
    journals: Mapping[str, Sequence[ledger_pb.Journal]]
    movements: Mapping[str, wallet_pb.Movement]


@dataclass(frozen=True)
class Books:
    """What wallets and ledger say at the end."""

    wallets: Sequence[wallet_pb.Wallet]
    trial_balance: ledger_pb.GetTrialBalanceResponse


@dataclass(frozen=True)
class Equation:
    """Two figures, in minor units, that must be the same."""

    left_name: str
    left_minor: int
    right_name: str
    right_minor: int
    currency: str

    @property
    def holds(self) -> bool:
        """Whether they are."""
        return self.left_minor == self.right_minor

    def __str__(self) -> str:
        left, right = Money(self.left_minor, self.currency), Money(self.right_minor, self.currency)
        sign = "=" if self.holds else "≠"
        return f"{self.left_name} {left} {sign} {self.right_name} {right}"


def way_table(story: Story) -> Table:
    """A payment's way through the services, step by step for each order."""
    payment = story.payment
    state = render.styled(payment_pb2.PaymentState, payment.state)
    table = Table(
        title=f"{escape(story.title)} ({escape(story.method)}): {state} after {story.seconds:.1f} s"
        f"\npayment {payment.payment_id}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in ("service", "what it did", "under the id"):
        table.add_column(column, overflow="fold")
    for order in payment.orders:
        for step in _steps(story, order):
            table.add_row(*step)
        table.add_section()
    return table


def equations(stories: Sequence[Story], books: Books) -> list[Equation]:
    """What must hold, for each currency of the trial balance."""
    rows = books.trial_balance.rows
    found = []
    for currency, (debit, credit) in sorted(render.trial_balance_sums(rows).items()):
        captured = _captured(stories, currency)
        credited = sum(
            balance.pending_minor + balance.available_minor + balance.reserved_minor
            for wallet in books.wallets
            for balance in wallet.balances
            if balance.currency_code == currency
        )
        commission = _credit(rows, ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE, currency)
        owed = sum(_credit(rows, kind, currency) for kind in _SELLER_KINDS)
        found += [
            Equation("debits", debit, "credits", credit, currency),
            Equation("captured", captured, "wallets + commission", credited + commission, currency),
            Equation("wallets", credited, "the ledger's seller accounts", owed, currency),
        ]
    return found


def proof_lines(stories: Sequence[Story], books: Books) -> Iterable[str]:
    """The equations, one in a line."""
    for equation in equations(stories, books):
        mark = "[green]✓[/green]" if equation.holds else "[red]✗[/red]"
        yield f"{mark} {equation}"


def problems(stories: Sequence[Story], books: Books) -> list[str]:
    """What is not as it must be, in words; nothing if all is well."""
    found = []
    for story in stories:
        if story.payment.state != story.expected:
            is_state = render.state_name(payment_pb2.PaymentState, story.payment.state)
            expected = render.state_name(payment_pb2.PaymentState, story.expected)
            found.append(
                f"the payment {story.payment.payment_id} ({story.title}) is {is_state}, "
                f"not {expected}"
            )
    if not any(_captured(stories, row.currency_code) for row in books.trial_balance.rows):
        found.append("the ledger has no entries")
    found += [str(equation) for equation in equations(stories, books) if not equation.holds]
    return found


def _steps(story: Story, order: payment_pb2.PaymentOrder) -> Iterable[tuple[str, str, str]]:
    """Service, what it did, and the id under which it is found there."""
    state = render.styled(payment_pb2.OrderState, order.state)
    asked = f"[bold]{render.money(order.amount)} for {escape(order.seller_id)}[/bold]: {state}"
    yield "payment", asked, order.order_id
    yield "executor, PSP", _outcome(order), escape(render.psp_reference(order))
    movement = story.movements.get(order.order_id)
    if movement is not None:
        yield "wallet", f"credited {render.money(movement.amount)}", movement.movement_id
    for journal in sorted(story.journals.get(order.order_id, ()), key=lambda found: found.kind):
        kind = render.state_name(ledger_pb.JournalKind, journal.kind).lower()
        yield "ledger", "\n".join([kind, *_entries(journal)]), journal.journal_id


def _outcome(order: payment_pb2.PaymentOrder) -> str:
    by = f", known by its {source}" if (source := render.evidence(order)) else ""
    if order.HasField("decline"):
        return f"declined ({escape(order.decline.code)}){by}"
    if order.attention_reason:
        return escape(order.attention_reason)
    if order.captured.amount_minor:
        return f"captured {render.money(order.captured)}{by}"
    return "no outcome yet"


def _entries(journal: ledger_pb.Journal) -> Iterable[str]:
    for entry in journal.entries:
        side = render.state_name(ledger_pb.Direction, entry.direction).lower()
        account = render.state_name(ledger_pb.AccountKind, entry.account.kind).lower()
        yield f"  {side} {account} {render.money(entry.amount)}"


def _captured(stories: Sequence[Story], currency: str) -> int:
    return sum(
        order.captured.amount_minor
        for story in stories
        for order in story.payment.orders
        if order.captured.currency_code == currency
    )


def _credit(
    rows: Iterable[ledger_pb.TrialBalanceRow], kind: ledger_pb.AccountKind.ValueType, currency: str
) -> int:
    """What stands on the credit side of a kind of accounts, less its debits."""
    return sum(
        row.credit_minor - row.debit_minor
        for row in rows
        if row.account.kind == kind and row.currency_code == currency
    )
