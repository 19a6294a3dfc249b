"""What callers are answered from memory is what a read would tell them."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from mesh.db import Database
from payment_svc import operations
from payment_svc.carried import Carried
from payment_svc.domain import OperationState, OrderState, items_of
from payment_svc.operations import Accepted, Recorded
from tests.support.payments import new_order, new_payment, progress

S = OrderState
AT_REST = [S.SUCCEEDED, S.DECLINED, S.PARKED, S.UNKNOWN, S.PROCESSING]


@pytest.mark.parametrize("states", list(combinations_with_replacement(AT_REST, 2)))
async def test_the_answer_from_memory_is_what_a_read_tells(
    database: Database, states: tuple[OrderState, OrderState]
) -> None:
    payment = new_payment(
        new_order(300, "ada", commission_minor=30, reference="r"),
        new_order(700, "bea", currency_code="JPY"),
        metadata={"key": "value"},
    )
    (accepted,) = await operations.write(database, [payment], 1)
    assert isinstance(accepted, Accepted)
    assert accepted.create_time is not None
    carried = Carried(payment, accepted.create_time)

    update_time = None
    for item, state in zip(items_of(payment, 1), states, strict=True):
        declined: dict[str, object] = {
            "decline_category": 2,
            "decline_code": "no_funds",
            "psp_reference": "psp_2",
        }
        open_: dict[str, object] = {
            "retry_after_s": 60.0,
            "operation_state": OperationState.PENDING,
        }
        more: dict[str, object] = {S.DECLINED: declined, S.UNKNOWN: open_, S.PROCESSING: open_}.get(
            state, {}
        )
        learnt = progress(item, state, **more)
        assert not carried.rests()
        carried.rested[item.position] = learnt
        (recorded,) = await operations.write(database, [learnt], 1)
        assert isinstance(recorded, Recorded)
        update_time = recorded.update_time

    assert carried.rests()
    assert update_time is not None
    stored = (await operations.payments(database, [payment.payment_id]))[payment.payment_id]
    assert carried.answer(update_time) == stored
