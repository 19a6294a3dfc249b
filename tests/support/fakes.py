"""The three services that payment_svc calls, played by a test over real gRPC.

Each keeps rows by key like the real one, and does as it is told: `executor.on(amount, …)`
scripts the answers of the operations of one amount, the wallet and the ledger refuse, fail
or hold. What they got and wrote is counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import grpc
from paymesh.executor.v1 import executor_service_pb2 as executor_pb
from paymesh.executor.v1 import executor_service_pb2_grpc as executor_grpc
from paymesh.ledger.v1 import ledger_posting_service_pb2 as ledger_pb
from paymesh.ledger.v1 import ledger_posting_service_pb2_grpc as ledger_grpc
from paymesh.ledger.v1 import operation_register_service_pb2 as register_pb
from paymesh.ledger.v1 import operation_register_service_pb2_grpc as register_grpc
from paymesh.payment.v1 import payment_pb2
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as reconciliation_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2_grpc as reconciliation_grpc
from paymesh.wallet.v1 import wallet_posting_service_pb2 as wallet_pb
from paymesh.wallet.v1 import wallet_posting_service_pb2_grpc as wallet_grpc

from mesh import ids
from mesh.errors import MeshError, Reason
from mesh.status import abort, to_status
from tests.support.ports import free_port

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Step: TypeAlias = "Callable[[executor_pb.OperationItem], executor_pb.OperationOutcome] | None"
"""What becomes of one asking of one operation; None is silence."""

Break: TypeAlias = Literal["before_ack", "after_ack", "after_outcome"]

SOURCE = "fake_psp"

_BIND_ATTEMPTS = 5


class Fake:
    """A server on a port of its own, that can go away and come back there."""

    def __init__(self, add: Callable[[Any, grpc.aio.Server], None]) -> None:
        self._add = add
        self._server: grpc.aio.Server | None = None
        self._served = False
        self.target = f"127.0.0.1:{free_port()}"

    async def start(self) -> None:
        """Serves, again on the same port."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._add(self, server)
        for left in reversed(range(_BIND_ATTEMPTS)):
            try:
                server.add_insecure_port(self.target)
                break
            except RuntimeError:
                # Somebody was quicker. Who has served there already must come back there.
                if self._served or not left:
                    raise
                self.target = f"127.0.0.1:{free_port()}"
        await server.start()
        self._server = server
        self._served = True

    async def stop(self) -> None:
        """Goes away at once."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


# --- the executor -------------------------------------------------------------------------


def captured(item: executor_pb.OperationItem) -> executor_pb.OperationOutcome:
    """The PSP took the money."""
    return executor_pb.OperationOutcome(
        operation_id=item.operation_id,
        captured=executor_pb.Captured(
            amount=item.amount,
            psp_reference=f"psp-{item.operation_id[:8]}",
            source=SOURCE,
            evidence=payment_pb2.EVIDENCE_SOURCE_PSP_ANSWER,
        ),
    )


def settled(
    item: executor_pb.OperationItem, evidence: executor_pb.SettlementEvidence
) -> executor_pb.OperationOutcome:
    """A settlement file says that the PSP took the money."""
    outcome = captured(item)
    outcome.captured.psp_reference = evidence.psp_reference
    outcome.captured.evidence = payment_pb2.EVIDENCE_SOURCE_SETTLEMENT_FILE
    if evidence.HasField("fee"):
        outcome.captured.fee.CopyFrom(evidence.fee)
    outcome.captured.amount.CopyFrom(evidence.amount)
    return outcome


def declined(item: executor_pb.OperationItem) -> executor_pb.OperationOutcome:
    """The PSP refused."""
    return executor_pb.OperationOutcome(
        operation_id=item.operation_id,
        declined=executor_pb.Declined(
            category=payment_pb2.DECLINE_CATEGORY_INSUFFICIENT_FUNDS,
            code="51",
            evidence=payment_pb2.EVIDENCE_SOURCE_PSP_ANSWER,
        ),
    )


def pending(item: executor_pb.OperationItem) -> executor_pb.OperationOutcome:
    """The PSP will tell later."""
    return executor_pb.OperationOutcome(
        operation_id=item.operation_id, pending=executor_pb.Pending(psp_reference="psp-later")
    )


def unknown(item: executor_pb.OperationItem) -> executor_pb.OperationOutcome:
    """Nobody knows."""
    return executor_pb.OperationOutcome(
        operation_id=item.operation_id, unknown=executor_pb.Unknown(detail="no answer")
    )


def parked(*, poll: bool, reason: str = "UNRESOLVED: nobody knows") -> Step:
    """An operator has to look."""
    return lambda item: executor_pb.OperationOutcome(
        operation_id=item.operation_id,
        parked=executor_pb.Parked(attention_reason=reason, poll=poll),
    )


def failed(error: MeshError) -> Step:
    """The executor could not look at it."""
    return lambda item: executor_pb.OperationOutcome(
        operation_id=item.operation_id, error=to_status(error)
    )


@dataclass
class _Script:
    steps: Sequence[Step] = (captured,)
    gate: asyncio.Event | None = None
    times: int = 1


@dataclass(eq=False)
class _Stream:
    out: asyncio.Queue[executor_pb.ExecuteResponse | None] = field(default_factory=asyncio.Queue)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    lists: int = 0


class FakeExecutor(Fake, executor_grpc.ExecutorServiceServicer):
    """Captures everything at once, unless a script says otherwise."""

    def __init__(self) -> None:
        super().__init__(executor_grpc.add_ExecutorServiceServicer_to_server)
        self._scripts: defaultdict[int, _Script] = defaultdict(_Script)
        self.asked: Counter[str] = Counter()
        """How often each operation came."""
        self.settled: dict[str, executor_pb.SettlementEvidence] = {}
        """What settlement files said of operations, as it came with them."""
        self.restarted: list[str] = []
        """The operations that came because an operator asked, in their order."""
        self.captures: set[str] = set()
        """The operations whose money was taken, like the executor's rows: once for ever."""
        self.streams: list[_Stream] = []
        self.opened = 0
        self.acknowledging = asyncio.Event()
        self.acknowledging.set()
        self.breaks: list[Break] = []
        """What cuts the stream of a list that comes, one entry a list."""

    def on(
        self, amount_minor: int, *steps: Step, gate: asyncio.Event | None = None, times: int = 1
    ) -> None:
        """Operations of this amount are answered step by step, the last one for ever.

        gate: answers are held until it is set. times: each answer is told so often.
        """
        self._scripts[amount_minor] = _Script(steps or (captured,), gate, times)

    async def cut(self) -> None:
        """Breaks all streams that stand."""
        for stream in self.streams:
            stream.out.put_nowait(None)

    async def Execute(
        self, request_iterator: AsyncIterator[executor_pb.ExecuteRequest], context: Context
    ) -> AsyncIterator[executor_pb.ExecuteResponse]:
        stream = _Stream()
        self.streams.append(stream)
        self.opened += 1
        reader = asyncio.create_task(self._read(request_iterator, stream))
        try:
            while (response := await stream.out.get()) is not None:
                yield response
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the test")
        finally:
            self.streams.remove(stream)
            for task in (reader, *stream.tasks):
                task.cancel()

    async def _read(
        self, requests: AsyncIterator[executor_pb.ExecuteRequest], stream: _Stream
    ) -> None:
        async for request in requests:
            stream.lists += 1
            cut = self.breaks.pop(0) if self.breaks else None
            for item in request.operations:
                self.asked[item.operation_id] += 1
                if item.restart:
                    self.restarted.append(item.operation_id)
                if item.HasField("settled"):
                    self.settled[item.operation_id] = item.settled
            if cut == "before_ack":
                stream.out.put_nowait(None)
                return
            self._spawn(stream, self._take(request, stream, cut))

    async def _take(
        self, request: executor_pb.ExecuteRequest, stream: _Stream, cut: Break | None
    ) -> None:
        await self.acknowledging.wait()
        stream.out.put_nowait(executor_pb.ExecuteResponse(committed_list_ids=[request.list_id]))
        if cut == "after_ack":
            stream.out.put_nowait(None)
            return
        for item in request.operations:
            if cut == "after_outcome":
                await self._answer(item, stream)
                stream.out.put_nowait(None)
                return
            self._spawn(stream, self._answer(item, stream))

    def _spawn(self, stream: _Stream, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        stream.tasks.add(task)
        task.add_done_callback(stream.tasks.discard)

    async def _answer(self, item: executor_pb.OperationItem, stream: _Stream) -> None:
        script = self._scripts[item.amount.amount_minor]
        step = script.steps[min(self.asked[item.operation_id], len(script.steps)) - 1]
        if step is None:
            return
        outcome = step(item)
        if item.operation_id in self.settled and outcome.WhichOneof("result") in (
            "pending",
            "unknown",
            "parked",
        ):
            outcome = settled(item, self.settled[item.operation_id])
        if outcome.WhichOneof("result") == "captured":
            self.captures.add(item.operation_id)
        if script.gate is not None:
            await script.gate.wait()
        for _ in range(script.times):
            stream.out.put_nowait(executor_pb.ExecuteResponse(outcomes=[outcome]))


# --- wallet and ledger --------------------------------------------------------------------


class _Books(Fake):
    """What the fake wallet and ledger have in common."""

    def __init__(self, add: Callable[[Any, grpc.aio.Server], None]) -> None:
        super().__init__(add)
        self.rows: dict[str, Any] = {}
        """What was written, by operation_id."""
        self.calls = 0
        self.items = 0
        self.refuse: dict[str, MeshError] = {}
        """seller_id → how each of its items is refused."""
        self.fail: MeshError | None = None
        """How each call fails, before anything is written."""
        self.lose: int = 0
        """So many calls write, and their answer is lost."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.cut_results = 0
        """So many results are missing from each answer."""
        self.empty_results = False
        """Whether results say nothing."""

    async def _called(self, context: Context) -> None:
        self.calls += 1
        await self.gate.wait()
        if self.fail is not None:
            await abort(context, self.fail)

    async def _answered(self, context: Context) -> None:
        if self.lose:
            self.lose -= 1
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "lost by the test")

    def _write(self, operation_id: str, seller_id: str, row: Any) -> MeshError | None:
        self.items += 1
        if seller_id in self.refuse:
            return self.refuse[seller_id]
        stored = self.rows.setdefault(operation_id, row)
        if stored != row:
            return MeshError(Reason.OPERATION_CONFLICT, "stored with other fields")
        return None


class FakeWallet(_Books, wallet_grpc.WalletPostingServiceServicer):
    """Rows are (seller_id, amount_minor, currency_code)."""

    def __init__(self) -> None:
        super().__init__(wallet_grpc.add_WalletPostingServiceServicer_to_server)

    async def ApplyMovements(
        self, request: wallet_pb.ApplyMovementsRequest, context: Context
    ) -> wallet_pb.ApplyMovementsResponse:
        await self._called(context)
        results = []
        for item in request.movements:
            row = (item.seller_id, item.amount.amount_minor, item.amount.currency_code)
            error = self._write(item.operation_id, item.seller_id, row)
            result = wallet_pb.MovementResult()
            if error is not None:
                result.error.CopyFrom(to_status(error))
            elif not self.empty_results:
                result.applied.pending_minor = item.amount.amount_minor
            results.append(result)
        await self._answered(context)
        return wallet_pb.ApplyMovementsResponse(results=results[: len(results) - self.cut_results])


def _add_ledger(ledger: FakeLedger, server: grpc.aio.Server) -> None:
    ledger_grpc.add_LedgerPostingServiceServicer_to_server(ledger, server)
    reconciliation_grpc.add_ReconciliationServiceServicer_to_server(ledger, server)
    register_grpc.add_OperationRegisterServiceServicer_to_server(ledger, server)


class FakeLedger(
    _Books,
    ledger_grpc.LedgerPostingServiceServicer,
    reconciliation_grpc.ReconciliationServiceServicer,
    register_grpc.OperationRegisterServiceServicer,
):
    """Rows are (seller_id, captured_minor, seller_pending_minor, commission_minor, source)."""

    def __init__(self) -> None:
        super().__init__(_add_ledger)
        self.fees: dict[str, int] = {}
        """The fees that came with captures, by operation_id."""
        self.lines: dict[str, list[reconciliation_pb.SettlementLine]] = {}
        """What current settlement files say, by operation_id."""
        self.most_lines = 2_000
        self.looked_up: Counter[str] = Counter()
        """How often each operation was asked about in settlement files."""
        self.register: dict[str, register_pb.RegisteredOperation] = {}
        """What was told of operations that are in no journal, the last of each."""
        self.registered: list[list[str]] = []
        """The lists that came, by their operation_ids."""
        self.refuse_to_register: dict[str, MeshError] = {}
        """operation_id → how it is refused."""
        self.fail_memos: MeshError | None = None
        """How each call for settlement lines or of the register fails."""
        self.lose_memos = 0
        """So many calls of the register write, and their answer is lost."""

    def settle(self, operation_id: str, amount_minor: int, **more: Any) -> None:
        """A settlement file has a line of the operation: by default a charge in euros."""
        line = reconciliation_pb.SettlementLine(
            **{
                "file_id": "f" * 32,
                "sequence": len(self.lines) + 1,
                "source": SOURCE,
                "kind": "CHARGE",
                "currency_code": "EUR",
                "amount_minor": amount_minor,
                "gross_minor": amount_minor,
                "psp_reference": f"settled-{operation_id[:8]}",
                "operation_id": operation_id,
                **more,
            }
        )
        self.lines.setdefault(operation_id, []).append(line)

    async def FindSettlementLines(
        self, request: reconciliation_pb.FindSettlementLinesRequest, context: Context
    ) -> reconciliation_pb.FindSettlementLinesResponse:
        if self.fail_memos is not None:
            await abort(context, self.fail_memos)
        self.looked_up.update(request.operation_ids)
        found = [line for key in request.operation_ids for line in self.lines.get(key, ())]
        return reconciliation_pb.FindSettlementLinesResponse(
            lines=found[: self.most_lines], has_more=len(found) > self.most_lines
        )

    async def RegisterOperations(
        self, request: register_pb.RegisterOperationsRequest, context: Context
    ) -> register_pb.RegisterOperationsResponse:
        if self.fail_memos is not None:
            await abort(context, self.fail_memos)
        self.registered.append([item.operation_id for item in request.operations])
        response = register_pb.RegisterOperationsResponse()
        for item in request.operations:
            if error := self.refuse_to_register.get(item.operation_id):
                response.results.add(error=to_status(error))
                continue
            self.register[item.operation_id] = item
            response.results.add().registered.state = item.state
        if self.lose_memos:
            self.lose_memos -= 1
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "lost by the test")
        return response

    async def PostEvents(
        self, request: ledger_pb.PostEventsRequest, context: Context
    ) -> ledger_pb.PostEventsResponse:
        await self._called(context)
        results = []
        for event in request.events:
            capture = event.capture
            row = (
                capture.seller_id,
                capture.captured.amount_minor,
                capture.seller_pending_minor,
                capture.commission_minor,
                capture.source,
            )
            if capture.HasField("fee"):
                self.fees[event.operation_id] = capture.fee.amount_minor
            error = self._write(event.operation_id, capture.seller_id, row)
            result = ledger_pb.PostEventResult()
            if error is not None:
                result.error.CopyFrom(to_status(error))
            elif not self.empty_results:
                journal = ids.journal_id("capture", ids.parse(event.operation_id))
                result.posted.journal_ids.append(journal.hex)
            results.append(result)
        await self._answered(context)
        return ledger_pb.PostEventsResponse(results=results[: len(results) - self.cut_results])
