"""What five databases say of orders by the token that they were paid with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb

from tests.support.mesh import RunningMesh

SILENT, WRONG = "tok_silent", "tok_wrong_amount"

_OPEN = [
    pb.ORDER_STATE_NOT_STARTED,
    pb.ORDER_STATE_PROCESSING,
    pb.ORDER_STATE_UNKNOWN,
    pb.ORDER_STATE_CAPTURED,
]
_PAID_WITH = "FROM payment_order AS o JOIN payment USING (payment_id)"
# All that an order gives away: to the seller, and to us.
_SHARES = [
    ledger_pb.ACCOUNT_KIND_SELLER_PENDING,
    ledger_pb.ACCOUNT_KIND_SELLER_AVAILABLE,
    ledger_pb.ACCOUNT_KIND_SELLER_RESERVED,
    ledger_pb.ACCOUNT_KIND_SELLER_DEBT,
    ledger_pb.ACCOUNT_KIND_COMMISSION_REVENUE,
]


class Totals(NamedTuple):
    """What was captured in a currency, by each book, in minor units. All should be the same."""

    currency: str
    stub: int
    orders: int
    wallets_and_commission: int
    ledger: int


class TokenBooks:
    """The books of a mesh, read in plain SQL."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh

    def under_way(self) -> int:
        """Orders that have not come to rest, but for those of which the PSP never tells."""
        return self._mesh.count(
            "payment",
            f"SELECT count(*) {_PAID_WITH} WHERE o.state = ANY (%s) AND payment_method <> %s",
            _OPEN,
            SILENT,
        )

    def unregistered(self) -> int:
        """Operations of which the ledger's register has something to be told."""
        return self._mesh.count("payment", "SELECT count(*) FROM operation WHERE unregistered")

    def waiting(self) -> int:
        """Orders that have not come to rest, and silent ones that are parked."""
        return self._mesh.count(
            "payment",
            f"SELECT count(*) {_PAID_WITH}"
            " WHERE o.state = ANY (%s) OR (o.state = %s AND payment_method = %s)",
            _OPEN,
            pb.ORDER_STATE_PARKED,
            SILENT,
        )

    def orders(self) -> Counter[tuple[str, int]]:
        """How many orders of each token are in each state."""
        rows = self._mesh.ask(
            "payment", f"SELECT payment_method, o.state, count(*) {_PAID_WITH} GROUP BY 1, 2"
        )
        return Counter({(str(token), int(str(state))): int(str(n)) for token, state, n in rows})

    def captured(self) -> dict[str, int]:
        """How often the stub really captured, by token."""
        rows = self._mesh.ask(
            "psp_stub",
            "SELECT payment_method, count(*) FROM truth WHERE state = 'CAPTURED' GROUP BY 1",
        )
        return {str(token): int(str(count)) for token, count in rows}

    def of_breaks(self, breaks: Iterable[reconciliation_pb.Break]) -> Counter[tuple[str, int, int]]:
        """How many differences of each token there are, of which class and state."""
        rows = self._mesh.ask(
            "payment", f"SELECT replace(order_id::text, '-', ''), payment_method {_PAID_WITH}"
        )
        tokens = {str(order_id): str(token) for order_id, token in rows}
        return Counter(
            (tokens.get(one.order_id, "no token"), int(getattr(one, "class")), int(one.state))
            for one in breaks
        )

    def silent_booked(self) -> int:
        """The silent captures that are in the ledger by now."""
        rows = self._mesh.ask(
            "payment", f"SELECT order_id {_PAID_WITH} WHERE payment_method = %s", SILENT
        )
        return self._mesh.count(
            "ledger",
            "SELECT count(*) FROM journal WHERE kind = %s AND order_id = ANY (%s)",
            ledger_pb.JOURNAL_KIND_CAPTURE,
            [order_id for (order_id,) in rows],
        )

    def taken_wrongly(self) -> dict[str, int]:
        """By currency, what the stub settles of the amounts that nobody asked for."""
        return self._sums(
            "psp_stub",
            "SELECT currency, sum(amount_minor - fee_minor)::bigint FROM truth"
            " WHERE payment_method = %s GROUP BY 1",
            WRONG,
        )

    def totals(self) -> list[Totals]:
        """By currency, what of the orders' money each book has; wrong amounts stand apart."""
        stub = self._sums(
            "psp_stub",
            "SELECT currency, sum(amount_minor)::bigint FROM truth"
            " WHERE state = 'CAPTURED' AND payment_method <> %s GROUP BY 1",
            WRONG,
        )
        orders, commission = (
            self._sums(
                "payment",
                f"SELECT currency_code, sum({column})::bigint FROM payment_order"
                " WHERE state = %s GROUP BY 1",
                pb.ORDER_STATE_SUCCEEDED,
            )
            for column in ("captured_minor", "commission_minor")
        )
        wallets = self._sums(
            "wallet",
            "SELECT currency, sum(pending_minor + available_minor + reserved_minor - debt_minor)"
            "::bigint FROM balance GROUP BY 1",
        )
        ledger = self._sums(
            "ledger",
            "SELECT currency, sum(CASE direction WHEN %s THEN amount_minor ELSE -amount_minor END)"
            "::bigint FROM entry WHERE account_kind = ANY (%s) GROUP BY 1",
            ledger_pb.DIRECTION_CREDIT,
            _SHARES,
        )
        return [
            Totals(
                currency,
                stub.get(currency, 0),
                orders.get(currency, 0),
                wallets.get(currency, 0) + commission.get(currency, 0),
                ledger.get(currency, 0),
            )
            for currency in sorted({*stub, *orders, *wallets, *ledger})
        ]

    def _sums(self, service: str, question: str, *values: object) -> dict[str, int]:
        rows = self._mesh.ask(service, question, *values)
        return {str(currency): int(str(amount)) for currency, amount in rows}
