"""The stub's transactions: one function, one commit, takes a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.errors import MeshError
from psp_stub import store
from psp_stub.domain import (
    Ask,
    Charge,
    FeeSchedule,
    Reply,
    conflict,
    decide,
    failed,
    script_of,
    unavailable,
)
from psp_stub.store import Known

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

        return await self._database.commit("psp_stub.charge", work)

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
        known = await self._meet(connection, counts)
        decisions = [
            decide(memory.ask, memory.generation, self._rules.fees)
            for _, memory in sorted(known.items())
            if memory.ask in counts
            and memory.calls >= script_of(memory.ask.payment_method).processed_at_call
        ]
        charges = await store.take(connection, decisions, pending_s=self._rules.pending_s)
        return _answers(asks, counts, known, charges)

    async def _meet(
        self, connection: AsyncConnection, counts: Mapping[Ask, int]
    ) -> dict[str, Known]:
        """Counts the calls. One list may hold a key several times, even with other fields."""
        memory_s = self._rules.key_memory_s
        firsts: dict[str, Ask] = {}
        for ask in counts:
            firsts.setdefault(ask.idempotency_key, ask)
        known = await store.meet(
            connection, {ask: counts[ask] for ask in firsts.values()}, key_memory_s=memory_s
        )
        if len(firsts) < len(counts):
            # Of several asks with one key, it may be a later one that the PSP knows.
            right = {
                ask: count
                for ask, count in counts.items()
                if ask != firsts[ask.idempotency_key] and ask == known[ask.idempotency_key].ask
            }
            if right:
                known |= await store.meet(connection, right, key_memory_s=memory_s)
        return known


def _answers(
    asks: Sequence[Ask],
    counts: Mapping[Ask, int],
    known: Mapping[str, Known],
    charges: Mapping[str, Charge],
) -> list[Answer]:
    answers: list[Answer] = []
    answered: Counter[str] = Counter()
    for ask in asks:
        memory = known[ask.idempotency_key]
        if ask != memory.ask:
            answers.append(conflict(memory.ask, ask))
            continue
        answered[ask.idempotency_key] += 1
        call = memory.calls - counts[ask] + answered[ask.idempotency_key]
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
