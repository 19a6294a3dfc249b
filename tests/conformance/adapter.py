"""An adapter under trial: calls to it, and everything that it answered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import grpc
from paymesh.common.v1 import money_pb2
from paymesh.psp.v1 import psp_service_pb2 as pb
from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceStub

from mesh.channel import MAX_MESSAGE_BYTES
from tests.conformance import answers
from tests.conformance.options import Options
from tests.conformance.rule import NotKept, NotTried

if TYPE_CHECKING:
    from paymesh.psp.v1.psp_service_pb2_grpc import PspServiceAsyncStub

_POLL_S = 0.1
# Calls that are answered by the caller's own deadline.
_OVERDUE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class CannotRun(Exception):
    """Why the adapter can't be tried at all; the message is for people."""


class Heard(NamedTuple):
    """An outcome, and how long after the call's begin it came, in seconds."""

    outcome: pb.ChargeOutcome
    after_s: float


@dataclass(slots=True)
class Call:
    """One call of Charge. code: how it ended; None if it had not when we turned away."""

    items: Sequence[pb.ChargeItem]
    heard: list[Heard] = field(default_factory=list)
    code: grpc.StatusCode | None = None

    def all_of(self, item: pb.ChargeItem) -> list[Heard]:
        """All outcomes under the item's key."""
        key = item.idempotency_key
        return [heard for heard in self.heard if heard.outcome.idempotency_key == key]

    def answered(self, item: pb.ChargeItem) -> Heard | None:
        """The first outcome under the item's key, which is the one that counts."""
        return next(iter(self.all_of(item)), None)

    def first(self, item: pb.ChargeItem, what: str = "the charge") -> pb.ChargeOutcome:
        """The same. Raises NotKept where there is none."""
        heard = self.answered(item)
        if heard is None:
            ended = "" if self.code in (None, grpc.StatusCode.OK) else f", ended with {self.ended}"
            raise NotKept(f"{what}: the call brought no outcome for its key{ended}")
        return heard.outcome

    @property
    def ended(self) -> str:
        """How the call ended, for people."""
        return "no end" if self.code is None else self.code.name


class Adapter:
    """The adapter, and how to try it. Belongs to one event loop."""

    def __init__(self, channel: grpc.aio.Channel, target: str, options: Options) -> None:
        self.channel = channel
        self.target = target
        self.options = options
        self.capabilities = pb.GetCapabilitiesResponse()
        self._stub: PspServiceAsyncStub = PspServiceStub(channel)
        self._made = 0

    def item(
        self, token: str | None = None, *, amount_minor: int | None = None, currency: str = ""
    ) -> pb.ChargeItem:
        """A charge that nobody asked for before, by default one to be captured.

        Unless it is given, no two items of a run have one amount.
        """
        self._made += 1
        return pb.ChargeItem(
            idempotency_key=uuid.uuid4().hex,
            operation_id=uuid.uuid4().hex,
            order_id=uuid.uuid4().hex,
            payment_method=token or self.options.tokens.ok,
            amount=money_pb2.Money(
                amount_minor=self.options.amount_minor + self._made
                if amount_minor is None
                else amount_minor,
                currency_code=currency or self.options.currency,
            ),
        )

    def scripted(self, behaviour: str) -> pb.ChargeItem:
        """A charge that provokes this behaviour. Raises NotTried where no token does."""
        return self.item(self.token(behaviour))

    def token(self, behaviour: str) -> str:
        """The payment method that provokes it. Raises NotTried where there is none."""
        token: str = getattr(self.options.tokens, behaviour)
        if not token:
            raise NotTried(f"no payment method provokes it: --token-{behaviour.replace('_', '-')}")
        return token

    def offers(self, currency: str) -> bool:
        """Whether the adapter says that it charges the currency."""
        offered = {capability.currency_code for capability in self.capabilities.currencies}
        return not offered or currency in offered

    async def charge(
        self, *items: pb.ChargeItem, deadline_s: float | None = None, to_end: bool = False
    ) -> Call:
        """One call with these items, until each key is answered, or the call's end.

        to_end: stays for the end of the call, for at most hang_s more, to hear also what
        should not come.
        """
        result = Call(items)
        missing = {item.idempotency_key for item in items}
        loop = asyncio.get_running_loop()
        began = loop.time()
        call = self._stub.Charge(
            pb.ChargeRequest(items=items), timeout=deadline_s or self.options.deadline_s
        )
        try:
            async with asyncio.timeout(None) as patience:
                async for response in call:
                    after_s = loop.time() - began
                    result.heard += [Heard(outcome, after_s) for outcome in response.outcomes]
                    was_missing, missing = (
                        missing,
                        missing - {outcome.idempotency_key for outcome in response.outcomes},
                    )
                    if missing:
                        continue
                    if not to_end:
                        return result
                    if was_missing:
                        patience.reschedule(loop.time() + self.options.hang_s)
                result.code = grpc.StatusCode.OK
        except TimeoutError:
            pass  # all is answered, and the call goes on
        except grpc.aio.AioRpcError as error:
            result.code = error.code()
        finally:
            call.cancel()
        return result

    async def charge_one(self, item: pb.ChargeItem, what: str = "the charge") -> pb.ChargeOutcome:
        """The outcome of a charge. Raises NotKept where there is none."""
        return (await self.charge(item)).first(item, what)

    async def capture(self, item: pb.ChargeItem, what: str = "the charge") -> pb.ChargeCaptured:
        """Charges what has to be captured. Raises NotKept if it is not."""
        return answers.captured(await self.charge_one(item, what), what)

    async def unanswered(self, item: pb.ChargeItem, *neighbours: pb.ChargeItem) -> Call:
        """A call whose first item should never be answered. Raises NotTried if it is.

        A decline that the look-up does not confirm was a time-out taken for a decline.
        """
        call = await self.charge(item, *neighbours, deadline_s=self.options.hang_s)
        heard = call.answered(item)
        if heard is not None:
            answers.recognised(heard.outcome, item.payment_method)
            if answers.kind(heard.outcome) == "declined":
                answers.declined(await self.look_up_one(item), "told as declined; the look-up")
            raise NotTried(f"the call was answered: {answers.shown(heard.outcome)}")
        if call.code not in _OVERDUE:
            raise NotKept(f"the call ended with {call.ended} and without an outcome for its key")
        return call

    async def results(self, *keys: str) -> list[pb.LookUpResult]:
        """Everything that one look-up tells. Raises NotKept where it fails."""
        call = self._stub.LookUp(
            pb.LookUpRequest(idempotency_keys=keys), timeout=self.options.look_up_deadline_s
        )
        try:
            return [result async for response in call for result in response.results]
        except grpc.aio.AioRpcError as error:
            raise NotKept(f"the look-up as a whole failed: {error.code().name}") from error

    async def look_up(self, *items: pb.ChargeItem) -> list[pb.LookUpResult]:
        """What the look-up tells of each item. Raises NotKept where one is left out."""
        by_key: dict[str, pb.LookUpResult] = {}
        for result in await self.results(*(item.idempotency_key for item in items)):
            by_key.setdefault(result.idempotency_key, result)
        missing = sum(item.idempotency_key not in by_key for item in items)
        if missing:
            raise NotKept(f"the look-up left out {missing} of {len(items)} keys")
        return [by_key[item.idempotency_key] for item in items]

    async def look_up_one(self, item: pb.ChargeItem) -> pb.LookUpResult:
        """What the look-up tells of one item."""
        return (await self.look_up(item))[0]

    async def evidence(self, item: pb.ChargeItem) -> pb.LookUpResult:
        """The first look-up that tells of something, at the latest the one at evidence_s."""
        return await self._until(item, self.options.evidence_s, "not_found")

    async def ending(self, item: pb.ChargeItem) -> pb.LookUpResult:
        """The first look-up that tells of an end, at the latest the one at pending_s."""
        return await self._until(item, self.options.pending_s, "pending")

    async def _until(self, item: pb.ChargeItem, patience_s: float, kind: str) -> pb.LookUpResult:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience_s
        while True:
            result = await self.look_up_one(item)
            if answers.kind(result) != kind or loop.time() >= give_up:
                return result
            await asyncio.sleep(_POLL_S)

    async def get_capabilities(self) -> pb.GetCapabilitiesResponse:
        """What the adapter says of itself now. Raises NotKept where it does not."""
        try:
            return await self._stub.GetCapabilities(
                pb.GetCapabilitiesRequest(), timeout=self.options.look_up_deadline_s
            )
        except grpc.aio.AioRpcError as error:
            raise NotKept(f"GetCapabilities failed: {error.code().name}") from error

    async def prepare(self) -> None:
        """Whether it can be tried at all. Raises CannotRun."""
        try:
            async with asyncio.timeout(self.options.connect_s):
                await self.channel.channel_ready()
        except TimeoutError:
            raise CannotRun(f"nothing answers at {self.target}") from None
        item = self.item()
        call = await self.charge(item)
        if call.code is grpc.StatusCode.UNIMPLEMENTED:
            raise CannotRun(f"{self.target} does not serve {pb.DESCRIPTOR.package}.PspService")
        heard = call.answered(item)
        if heard is None or answers.kind(heard.outcome) != "captured":
            said = f"the call brought {call.ended}" if not heard else answers.shown(heard.outcome)
            raise CannotRun(
                f"{self.target} does not capture {answers.money(item.amount)} from "
                f"{item.payment_method!r}: {said}; name what it captures with --token-ok, "
                "--currency and --amount-minor"
            )
        try:
            self.capabilities = await self.get_capabilities()
        except NotKept:
            return  # the rules about it will say so


@asynccontextmanager
async def connected(target: str, options: Options) -> AsyncIterator[Adapter]:
    """The adapter at `target` (`host:port`). Raises CannotRun.

    Not the mesh's own channel: that one sends nothing to an adapter whose health does not
    say SERVING, and a rule of its own finds that out here.
    """
    channel = grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    async with channel:
        adapter = Adapter(channel, target, options)
        await adapter.prepare()
        yield adapter
