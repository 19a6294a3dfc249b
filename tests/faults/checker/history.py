"""Whether answers could have been given one after the other: linearizability of each request_id.

By Wing and Gong: a history is right if its calls can be put in one order, which keeps to the
times where one ended before another began, and in which each answer is what a store that does
one call at a time would say. The order is searched; histories of one key are short.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_service_pb2 as service_pb

from tests.faults.checker.records import Told, Violation

Key: TypeAlias = tuple[str, str]
"""Caller and request_id."""

_REUSED = "REQUEST_ID_REUSED"
_NOT_THERE = "PAYMENT_NOT_FOUND"
# Whoever hears no reason, or this one, knows nothing.
_UNKNOWN = frozenset({"", "OUTCOME_UNKNOWN"})

_MOVED = frozenset({"CAPTURED", "SUCCEEDED", "PARKED"})
_ANY = _MOVED | {"PROCESSING", "UNKNOWN", "DECLINED"}
_MAY_FOLLOW: Mapping[str, frozenset[str]] = {
    "NOT_STARTED": _ANY | {"NOT_STARTED"},
    "PROCESSING": _ANY,
    "UNKNOWN": _ANY,
    "CAPTURED": _MOVED,
    "PARKED": _ANY,
}
"""What an order may be seen as later, over any number of moves. What ended stays as it is."""


class _Call(NamedTuple):
    """What matters of a call. body: what was asked to be made; empty for a read."""

    body: bytes
    payment_id: str
    states: tuple[str, ...]
    reason: str
    asked_s: float
    answered_s: float

    @property
    def may_have_done_nothing(self) -> bool:
        """Whether that is all that is known."""
        return not self.payment_id and self.reason in _UNKNOWN


class _Store(NamedTuple):
    """What there is of a key at one moment; what nobody was told yet is empty."""

    body: bytes = b""
    payment_id: str = ""
    states: tuple[str, ...] = ()


def violations(told: Iterable[Told], stored: Mapping[Key, str]) -> list[Violation]:
    """The keys whose answers no order of calls explains.

    stored: key → payment_id of what is there at the end, as if it were read once more then.
    """
    found = []
    for key, calls in _by_key(told).items():
        end = stored.get(key, "")
        last = _Call(b"", end, (), "" if end else _NOT_THERE, math.inf, math.inf)
        payment_id = end or next((call.payment_id for call in calls if call.payment_id), "")
        story = f"the answers to {key[1]} contradict each other: {_story(calls)}; at the end {end}"
        if not _has_an_order([*(call._replace(states=()) for call in calls), last]):
            found.append(Violation("I5", payment_id, story))
        elif not _has_an_order([*calls, last]):
            found.append(Violation("I8", payment_id, story))
    return found


def _by_key(told: Iterable[Told]) -> Mapping[Key, list[_Call]]:
    calls: dict[Key, list[_Call]] = defaultdict(list)
    asked = list(told)
    keys = {one.payment.payment_id: _key_of(one.payment) for one in asked if one.payment}
    for one in asked:
        request = one.request
        makes = isinstance(request, service_pb.CreatePaymentRequest)
        says = makes or one.payment or one.reason == _NOT_THERE
        key = (one.caller, request.request_id)
        if not makes and one.payment:
            key = _key_of(one.payment)
        elif isinstance(request, service_pb.GetPaymentRequest) and request.payment_id:
            key = keys.get(request.payment_id, ("", ""))
        if says and key[1]:
            calls[key] += _steps_of(_call(one))
    return calls


def _steps_of(call: _Call) -> list[_Call]:
    """A CreatePayment makes a payment, and tells later how it stands: others read in between."""
    if not (call.body and call.payment_id):
        return [call]
    return [call._replace(states=()), call._replace(body=b"")]


def _key_of(payment: pb.Payment) -> Key:
    return payment.caller, payment.request_id


def _is_unknown(told: Told) -> bool:
    return told.payment is None and told.reason in _UNKNOWN


def _call(told: Told) -> _Call:
    states: tuple[str, ...] = ()
    if told.payment:
        states = tuple(
            pb.OrderState.Name(order.state).removeprefix("ORDER_STATE_")
            for order in told.payment.orders
        )
    return _Call(
        _body(told.request),
        told.payment.payment_id if told.payment else "",
        states,
        told.reason,
        told.asked_s,
        # What was not answered may still be done at any time.
        math.inf if _is_unknown(told) else told.answered_s,
    )


def _body(request: service_pb.CreatePaymentRequest | service_pb.GetPaymentRequest) -> bytes:
    """What two requests have in common that ask for the same."""
    if isinstance(request, service_pb.GetPaymentRequest):
        return b""
    same = service_pb.CreatePaymentRequest()
    same.CopyFrom(request)
    same.failure_policy = same.failure_policy or pb.FAILURE_POLICY_BEST_EFFORT
    same.capture_method = same.capture_method or pb.CAPTURE_METHOD_AUTOMATIC
    for order in same.orders:
        if not order.commission.amount_minor:
            order.ClearField("commission")
    return same.SerializeToString(deterministic=True)


def _after(store: _Store, call: _Call) -> _Store | None:
    """What there is after the call, if it could be answered so; else None."""
    if call.payment_id:
        made = _Store(call.body or store.body, call.payment_id, call.states or store.states)
        if not store.body:
            return made if call.body else None
        same = call.body in (b"", store.body) and store.payment_id in ("", call.payment_id)
        return made if same and _follows(store.states, made.states) else None
    if call.reason == _NOT_THERE:
        return None if store.body else store
    if call.reason == _REUSED:
        return store if store.body not in (b"", call.body) else None
    if call.reason in _UNKNOWN and not store.body:
        return _Store(call.body)
    return store


def _follows(before: Sequence[str], after: Sequence[str]) -> bool:
    if not before:
        return True
    return len(before) == len(after) and all(
        new == old or new in _MAY_FOLLOW.get(old, frozenset())
        for old, new in zip(before, after, strict=True)
    )


def _has_an_order(calls: Sequence[_Call]) -> bool:
    tried: set[tuple[frozenset[int], _Store]] = set()
    # Where nobody says how it was made, it was before all that they say.
    made = any(call.body for call in calls)
    waiting = [(frozenset(range(len(calls))), _Store() if made else _Store(b"not told"))]
    while waiting:
        left, store = waiting.pop()
        if all(calls[n].may_have_done_nothing for n in left):
            return True
        if (left, store) not in tried:
            tried.add((left, store))
            waiting += _steps(calls, left, store)
    return False


def _steps(
    calls: Sequence[_Call], left: frozenset[int], store: _Store
) -> Iterable[tuple[frozenset[int], _Store]]:
    """What may come next: any call that none of the others had ended before."""
    first_end = min(calls[n].answered_s for n in left)
    steps = []
    for n in left:
        if calls[n].asked_s <= first_end and (after := _after(store, calls[n])) is not None:
            if after == store:
                # It changes nothing, so nothing is lost by having it now.
                return [(left - {n}, after)]
            steps.append((left - {n}, after))
    return steps


def _story(calls: Iterable[_Call]) -> str:
    def told(call: _Call) -> str:
        name = "create" if call.body else "read"
        answer = f"{call.payment_id[:12]} {'/'.join(call.states)}".strip()
        return f"{name} → {answer or call.reason or 'no answer'}"

    return ", ".join(told(call) for call in sorted(calls, key=lambda call: call.asked_s))
