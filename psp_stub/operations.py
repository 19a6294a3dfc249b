"""The stub's transactions: one function, one commit, takes a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.errors import MeshError
from psp_stub import store
from psp_stub.domain import (
    Ask,
    Charge,
    FeeSchedule,
    Reply,
    as_new,
    conflict,
    decide,
    failed,
    script_of,
    unavailable,
)
from psp_stub.store import Call

Answer = Charge | MeshError | None
"""What a call hears: how the charge stands, an error, or nothing, ever."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The PSP's own rules.

    fees: what it keeps. key_memory_s: how long it remembers a key after its first call.
    pending_s: how long after the call a pending charge is final.
    """

    fees: FeeSchedule
    key_memory_s: float
    pending_s: float


class Operations:
    """The transactions on one database, by one set of rules."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self._rules = rules

    async def charge(self, asks: Sequence[Ask]) -> list[Answer]:
        """Counts the calls, makes the charges that they bring about, and answers each.

        Idempotent on the key while the PSP remembers it: charged once, and each call hears
        how that charge stands, as far as its token's script lets it. Answers that are
        errors: OPERATION_CONFLICT (nothing was taken), and those of the scripts.
        Raises CommitFailed of the database for the list as a whole.
        """
        if not asks:
            return []

        async def work(connection: AsyncConnection) -> list[Answer]:
            return await self._charge(connection, asks)

        # A key and its charge are one statement; a second one (see _charge) is about other keys.
        return await self._database.commit("psp_stub.charge", work, one_write=True)

    async def look_up(self, keys: Sequence[str]) -> dict[str, Charge]:
        """By key, how the charges stand that the PSP tells of; the others are not found.

        Raises NotCommitted where the database can't be reached.
        """
        if not keys:
            return {}

        async def work(connection: AsyncConnection) -> dict[str, Charge]:
            found = await store.look_up(connection, keys, key_memory_s=self._rules.key_memory_s)
            return {
                key: charge
                for key, (payment_method, charge) in found.items()
                if script_of(payment_method).found
            }

        return await self._database.read("psp_stub.look_up", work)

    async def _charge(self, connection: AsyncConnection, asks: Sequence[Ask]) -> list[Answer]:
        counts = Counter(asks)
        firsts: dict[str, Ask] = {}
        for ask in counts:
            firsts.setdefault(ask.idempotency_key, ask)
        called = await self._call(connection, {ask: counts[ask] for ask in firsts.values()})
        stored: dict[str, Ask] = {}
        if len(called) < len(counts):
            doubtful = [ask for ask in counts if ask not in called]
            stored = await store.read_asks(connection, {a.idempotency_key for a in doubtful})
            # One list may hold a key with several fields; the right ones may not come first.
            right = {ask: counts[ask] for ask in doubtful if ask == stored[ask.idempotency_key]}
            if right:
                called |= await self._call(connection, right)
        charges = {ask.idempotency_key: c.charge for ask, c in called.items() if c.charge}
        others = [
            ask.idempotency_key
            for ask, (calls, charge) in called.items()
            if charge is None and calls >= script_of(ask.payment_method).processed_at_call
        ]
        if others:
            charges |= await store.read_charges(connection, others)
        return _answers(asks, counts, called, stored, charges)

    async def _call(
        self, connection: AsyncConnection, counts: Mapping[Ask, int]
    ) -> dict[Ask, _Called]:
        """What the stub remembers of the asks, these calls included. Conflicts are left out."""
        calls = [
            Call(
                ask,
                times,
                script_of(ask.payment_method).processed_at_call,
                decide(ask, self._rules.fees),
            )
            for ask, times in sorted(counts.items())
        ]
        all_met = await store.call(
            connection,
            calls,
            key_memory_s=self._rules.key_memory_s,
            pending_s=self._rules.pending_s,
        )
        called = {}
        for ask, _, _, decision in calls:
            met = all_met.get(ask.idempotency_key)
            if met is None:
                continue
            charge = None
            if met.new_reference is not None and not decision.pending:
                charge = as_new(ask, decision, met.new_reference)
            called[ask] = _Called(met.calls, charge)
        return called


class _Called(NamedTuple):
    """calls: so far, with these fields. charge: if it is new and final."""

    calls: int
    charge: Charge | None


def _answers(
    asks: Sequence[Ask],
    counts: Mapping[Ask, int],
    called: Mapping[Ask, _Called],
    stored: Mapping[str, Ask],
    charges: Mapping[str, Charge],
) -> list[Answer]:
    answers: list[Answer] = []
    answered: Counter[Ask] = Counter()
    for ask in asks:
        if ask not in called:
            answers.append(conflict(stored[ask.idempotency_key], ask))
            continue
        answered[ask] += 1
        call = called[ask].calls - counts[ask] + answered[ask]
        match script_of(ask.payment_method).reply(call):
            case Reply.OUTCOME:
                answers.append(charges[ask.idempotency_key])
            case Reply.SILENCE:
                answers.append(None)
            case Reply.UNAVAILABLE:
                answers.append(unavailable())
            case Reply.INTERNAL:
                answers.append(failed())
    return answers
