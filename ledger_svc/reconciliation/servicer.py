"""The ReconciliationService: proto → domain → operation → proto."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import grpc
import structlog
from paymesh.common.v1 import money_pb2
from paymesh.ledger.v1 import ledger_service_pb2 as ledger_pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1 import reconciliation_service_pb2_grpc as pb_grpc

from ledger_svc.reconciliation import decide, files, run
from ledger_svc.reconciliation.domain import (
    Break,
    BreakFilter,
    Close,
    Decision,
    Delivery,
    FileState,
    FoundLine,
    Resolution,
    Run,
    StoredFile,
    StoredStatement,
)
from ledger_svc.reconciliation.run import SettlementFiles
from ledger_svc.reconciliation.sources import Source, Sources
from mesh import ids, paging
from mesh.clock import timestamp
from mesh.db import Database
from mesh.errors import MeshError, Reason, Violation, validation_failed
from mesh.validation import check

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

MAX_FOUND_LINES = 2_000

CALLER_KEY = "paymesh-caller"
DEFAULT_CALLER = "default"
_CALLER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")

# Statements have numbers, and no times: a page's position carries the number as an id.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class ReconciliationServicer(pb_grpc.ReconciliationServiceServicer):
    """Files in, what they say, and what the ledger has to say to it."""

    def __init__(
        self,
        database: Database,
        sources: Sources,
        max_file_bytes: int,
        adapters: Mapping[str, SettlementFiles],
    ) -> None:
        """`adapters`: source → where its files are fetched from, if they have not come."""
        self._database = database
        self._sources = sources
        self._max_file_bytes = max_file_bytes
        self._adapters = adapters

    async def IngestSettlementFile(
        self, request_iterator: AsyncIterator[pb.IngestSettlementFileRequest], context: Context
    ) -> pb.IngestSettlementFileResponse:
        told: tuple[pb.SettlementFileHeader, Source, date | None] | None = None
        with files.Spool(self._max_file_bytes) as spool:
            async for part in request_iterator:
                error = check(part)
                if error is not None:
                    raise error
                if part.WhichOneof("part") == "header":
                    if told is not None:
                        raise validation_failed(Violation("header", "must come once"))
                    told = (
                        part.header,
                        files.source_of(self._sources, part.header.source),
                        _told_day(part.header),
                    )
                elif told is None:
                    raise validation_failed(Violation("header", "must come before any chunk"))
                else:
                    await spool.write(part.chunk)
            if told is None:
                raise validation_failed(Violation("header", "must be the first message"))
            spool.finish()
            header, source, day = told
            delivery = Delivery(
                header.source,
                header.file_name,
                header.format,
                day,
                spool.sha256,
                spool.size_bytes,
            )
            stored = await files.ingest(
                self._database, delivery, source, spool, self._max_file_bytes
            )
        return pb.IngestSettlementFileResponse(file=_file(stored))

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> pb.GetFileResponse:
        stored = await files.get_file(self._database, ids.parse(request.file_id))
        return pb.GetFileResponse(file=_file(stored))

    async def ListStatements(
        self, request: pb.ListStatementsRequest, context: Context
    ) -> pb.ListStatementsResponse:
        position = paging.decode_token(request)
        after = -1 if position is None else position.id.int
        size = paging.page_size(request.page_size)
        found = await files.list_statements(
            self._database, ids.parse(request.file_id), after, size + 1
        )
        page = list(paging.fitting(map(_statement, found[:size])))
        token = ""
        if len(page) < len(found):
            last = UUID(int=found[len(page) - 1].number)
            token = paging.encode_token(request, paging.Position(_NO_TIME, last))
        return pb.ListStatementsResponse(statements=page, next_page_token=token)

    async def FindSettlementLines(
        self, request: pb.FindSettlementLinesRequest, context: Context
    ) -> pb.FindSettlementLinesResponse:
        found = await files.find_lines(
            self._database,
            request.psp_references,
            [ids.parse(operation_id) for operation_id in request.operation_ids],
            MAX_FOUND_LINES + 1,
        )
        return pb.FindSettlementLinesResponse(
            lines=map(_line, found[:MAX_FOUND_LINES]), has_more=len(found) > MAX_FOUND_LINES
        )

    async def Reconcile(
        self, request: pb.ReconcileRequest, context: Context
    ) -> pb.ReconcileResponse:
        day = _day(request.settlement_date, "settlement_date")
        source = files.source_of(self._sources, request.source)
        await self._fetch(request.source, source, day)
        await self._catch_up(request.source, source, day)
        late = await run.late_days(self._database, request.source, day)
        await self._reconcile_others(request.source, source, late)
        done = await run.reconcile(self._database, request.source, source, day)
        return pb.ReconcileResponse(run=_run(done))

    async def _catch_up(self, name: str, source: Source, day: date) -> None:
        """Fetches and reconciles what is left to do before the day.

        By a night that did not run or was killed, or for a correction that came after it.
        """
        if name in self._adapters:
            for missing in await run.missing_days(self._database, name, source, day):
                try:
                    await self._fetch(name, source, missing)
                except MeshError as error:
                    if error.reason is Reason.FILE_TOO_LARGE:
                        _left_behind(name, missing, error)
                    elif error.reason is not Reason.SETTLEMENT_FILE_MISSING:
                        raise
                    # It stays missing, and the run says so.
        behind = await run.days_behind(self._database, name, day)
        await self._reconcile_others(name, source, behind)

    async def _reconcile_others(self, name: str, source: Source, days: Iterable[date]) -> None:
        """Reconciles days that nobody asked for: one that fails stops no other."""
        for day in days:
            try:
                await run.reconcile(self._database, name, source, day)
            except MeshError as error:
                _left_behind(name, day, error)

    async def _fetch(self, name: str, source: Source, day: date) -> None:
        """Sees to it that a file of the day is there, if it can be had."""
        adapter = self._adapters.get(name)
        if adapter is None or await run.has_files(self._database, name, day):
            return
        told = Delivery(name, f"{name}-{day}", "", day, b"", 0)
        stored = await files.fetch(
            self._database, told, source, adapter.fetch(day), self._max_file_bytes
        )
        if stored.state is not FileState.INGESTED:
            raise MeshError(
                Reason.SETTLEMENT_FILE_MISSING,
                f"the adapter's file of {day} can't be used: {stored.state.name}",
                {"file_id": stored.file_id.hex, "problem": stored.problem},
            )

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        return pb.GetRunResponse(
            run=_run(await run.get_run(self._database, ids.parse(request.run_id)))
        )

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        text = request.settlement_date
        day = _day(text, "settlement_date") if text else None
        after = paging.decode_token(request)
        size = paging.page_size(request.page_size)
        found = await run.list_runs(self._database, request.source, day, after, size + 1)
        page = list(paging.fitting(map(_run, found[:size])))
        token = ""
        if len(page) < len(found):
            last = found[len(page) - 1]
            token = paging.encode_token(request, paging.Position(last.create_time, last.run_id))
        return pb.ListRunsResponse(runs=page, next_page_token=token)

    async def ListBreaks(
        self, request: pb.ListBreaksRequest, context: Context
    ) -> pb.ListBreaksResponse:
        after = paging.decode_token(request)
        size = paging.page_size(request.page_size)
        which = BreakFilter(
            ids.parse(request.run_id) if request.run_id else None,
            request.source,
            getattr(request, "class"),
            request.state,
        )
        found = await run.list_breaks(self._database, which, after, size + 1)
        page = list(paging.fitting(map(_break, found[:size])))
        token = ""
        if len(page) < len(found):
            last = found[len(page) - 1]
            token = paging.encode_token(request, paging.Position(last.create_time, last.break_id))
        return pb.ListBreaksResponse(breaks=page, next_page_token=token)

    async def ResolveBreak(
        self, request: pb.ResolveBreakRequest, context: Context
    ) -> pb.ResolveBreakResponse:
        decision = Decision(
            _caller(context),
            request.request_id,
            ids.parse(request.break_id),
            Resolution(request.resolution),
            request.actor,
            request.note,
        )
        resolved = await decide.resolve(self._database, self._sources, decision)
        return pb.ResolveBreakResponse(resolved_break=_break(resolved))

    async def CloseDay(self, request: pb.CloseDayRequest, context: Context) -> pb.CloseDayResponse:
        day = _day(request.settlement_date, "settlement_date")
        files.source_of(self._sources, request.source)
        close = Close(_caller(context), request.request_id, request.source, day, request.actor)
        return pb.CloseDayResponse(run=_run(await decide.close_day(self._database, close)))


def _left_behind(name: str, day: date, error: MeshError) -> None:
    """The next night tries it again."""
    cause = "; ".join((str(error), *getattr(error, "__notes__", ())))
    log.warning("day_left_behind", source=name, settlement_date=day.isoformat(), cause=cause)


def _caller(context: Context) -> str:
    """The configured name of the caller: the metadata entry, else `default`."""
    for key, value in context.invocation_metadata() or ():
        if key == CALLER_KEY:
            if not isinstance(value, str) or not _CALLER.fullmatch(value):
                raise validation_failed(
                    Violation(
                        f"metadata.{CALLER_KEY}",
                        "must be 1 to 63 of a-z, 0-9, '_', '.', '-', and start with a letter "
                        "or digit",
                    )
                )
            return value
    return DEFAULT_CALLER


def _day(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise validation_failed(Violation(field, "is not a day, YYYY-MM-DD")) from None


def _told_day(header: pb.SettlementFileHeader) -> date | None:
    if not header.HasField("settlement_date"):
        return None
    return _day(header.settlement_date, "header.settlement_date")


def _file(stored: StoredFile) -> pb.SettlementFile:
    return pb.SettlementFile(
        file_id=stored.file_id.hex,
        sha256=stored.sha256.hex(),
        format=stored.format,
        lines=stored.lines,
        state=pb.FileState.ValueType(stored.state),
        problem=stored.problem,
        problem_place=stored.problem_place,
        problem_class=pb.BreakClass.ValueType(stored.problem_class),
        source=stored.source,
        settlement_date=_iso(stored.settlement_date),
        file_name=stored.file_name,
        size_bytes=stored.size_bytes,
        create_time=timestamp(stored.create_time),
    )


def _statement(stored: StoredStatement) -> pb.Statement:
    return pb.Statement(
        account=stored.account,
        currency_code=stored.currency,
        opening_minor=stored.opening_minor,
        closing_minor=stored.closing_minor,
        entries=stored.entries,
        credits_minor=stored.credits_minor,
        debits_minor=stored.debits_minor,
        ties=stored.ties,
        problem=stored.problem,
        identity=stored.identity,
        revision=stored.revision,
        settlement_date=_iso(stored.settlement_date),
        is_current=stored.is_current,
    )


def _line(found: FoundLine) -> pb.SettlementLine:
    return pb.SettlementLine(
        file_id=found.file_id.hex,
        sequence=found.sequence,
        place=found.place,
        source=found.source,
        settlement_date=_iso(found.settlement_date),
        kind=found.kind,
        currency_code=found.currency,
        amount_minor=found.amount_minor,
        gross_minor=found.gross_minor,
        fee_minor=found.fee_minor,
        psp_reference=found.source_reference,
        operation_id=_hex(found.operation_id),
        order_id=_hex(found.order_id),
        batch_reference=found.batch_reference,
        journal_id=_hex(found.journal_id),
    )


def _iso(day: date | None) -> str:
    return "" if day is None else day.isoformat()


def _hex(id_: UUID | None) -> str:
    return "" if id_ is None else id_.hex


def _run(found: Run) -> pb.Run:
    return pb.Run(
        run_id=found.run_id.hex,
        version=found.version,
        state=pb.RunState.ValueType(found.state),
        counts=[pb.ClassCount(**{"class": class_}, breaks=count) for class_, count in found.counts],
        balances=[
            pb.RunBalance(
                currency_code=one.currency,
                opening_minor=one.opening_minor,
                closing_minor=one.closing_minor,
                lines_minor=one.lines_minor,
                ledger_minor=one.ledger_minor,
                breaks_minor=one.breaks_minor,
                difference_minor=one.difference_minor,
            )
            for one in found.balances
        ],
        matched=found.matched,
        breaks=sum(count for _, count in found.counts),
        source=found.source,
        settlement_date=found.settlement_date.isoformat(),
        lines=found.lines,
        file_ids=[file_id.hex for file_id in found.files],
        cut_off_time=timestamp(found.cut_off_time),
        create_time=timestamp(found.create_time),
        close_time=None if found.close_time is None else timestamp(found.close_time),
        close_actor=found.close_actor,
    )


def _break(found: Break) -> pb.Break:
    return pb.Break(
        break_id=found.break_id.hex,
        **{"class": found.class_},
        state=pb.BreakState.ValueType(found.state),
        source=found.source,
        settlement_date=found.settlement_date.isoformat(),
        currency_code=found.currency,
        amount_minor=found.amount_minor,
        last_run_id=found.last_run_id.hex,
        create_time=timestamp(found.create_time),
        update_time=timestamp(found.update_time),
        age_days=found.age_days,
        rule=found.rule,
        file_id=_hex(found.file_id),
        file_sha256="" if found.sha256 is None else found.sha256.hex(),
        place=found.place,
        sequence=found.sequence or 0,
        psp_reference=found.psp_reference,
        operation_id=_hex(found.operation_id),
        order_id=_hex(found.order_id),
        journal_id=_hex(found.journal_id),
        proposal=_proposal(found),
        booked_journal_id=_hex(found.booked_id),
    )


def _proposal(found: Break) -> list[ledger_pb.Entry]:
    """The entries that bring the ledger to the file; none where nothing would move."""
    if not found.is_postable:
        return []
    base = ledger_pb.Account(
        kind=ledger_pb.AccountKind.ValueType(found.base_kind), source=found.source
    )
    counter = ledger_pb.Account(
        kind=ledger_pb.AccountKind.ValueType(found.counter_kind), source=found.counter_source
    )
    amount = money_pb2.Money(amount_minor=abs(found.amount_minor), currency_code=found.currency)
    debit, credit = (base, counter) if found.amount_minor > 0 else (counter, base)
    return [
        ledger_pb.Entry(account=debit, direction=ledger_pb.DIRECTION_DEBIT, amount=amount),
        ledger_pb.Entry(account=credit, direction=ledger_pb.DIRECTION_CREDIT, amount=amount),
    ]
