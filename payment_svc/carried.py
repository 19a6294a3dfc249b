"""A payment that this process drives, and the answer to its callers out of what it knows.

Reading back what was just written cost a tenth of a payment. The answer is what a read
would tell: the request as it was stored, and each order's progress as it was recorded. So
it is given only where nobody can have recorded another since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from mesh.money import Money
from payment_svc.domain import (
    CHARGE,
    ENDED_STATES,
    Evidence,
    NewPayment,
    OperationState,
    Progress,
    payment_state,
)
from payment_svc.views import Operation, Order, Payment


@dataclass(slots=True)
class Carried:
    """One payment on its first trip. rested: the progress of its orders, by position."""

    payment: NewPayment
    create_time: datetime
    rested: dict[int, Progress] = field(default_factory=dict)

    def rests(self) -> bool:
        """Whether every order's first trip has ended."""
        return len(self.rested) == len(self.payment.orders)

    def ended_but_for(self, position: int) -> bool:
        """Whether every other order has reached a state that is never left.

        Where one has not, another replica may have driven it on since, and told so.
        """
        others = (p.state for where, p in self.rested.items() if where != position)
        return all(state in ENDED_STATES for state in others)

    def answer(self, update_time: datetime) -> Payment:
        """The payment as it is stored now that it rests."""
        orders = [self._order(position) for position in range(len(self.payment.orders))]
        return Payment(
            payment_id=self.payment.payment_id,
            caller=self.payment.caller,
            request_id=self.payment.request_id,
            buyer_id=self.payment.buyer_id,
            state=payment_state([order.state for order in orders]),
            failure_policy=self.payment.failure_policy,
            capture_method=self.payment.capture_method,
            metadata=self.payment.metadata,
            create_time=self.create_time,
            update_time=update_time,
            orders=orders,
            rests=True,
        )

    def _order(self, position: int) -> Order:
        asked, progress = self.payment.orders[position], self.rested[position]
        amount = Money(asked.amount_minor, asked.currency_code)
        return Order(
            order_id=progress.item.order_id,
            seller_id=asked.seller_id,
            amount=amount,
            commission_minor=asked.commission_minor,
            reference=asked.reference,
            state=progress.state,
            captured_minor=progress.captured_minor or 0,
            decline_category=progress.decline_category,
            decline_code=progress.decline_code,
            attention_reason=progress.attention_reason or "",
            operations=[
                Operation(
                    operation_id=progress.item.operation_id,
                    kind=CHARGE,
                    amount=amount,
                    state=progress.operation_state or OperationState.PENDING,
                    evidence=progress.evidence or Evidence.NONE,
                    psp_reference=progress.psp_reference or "",
                    create_time=self.create_time,
                )
            ],
        )
