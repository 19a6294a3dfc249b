"""`python -m bench.settlement`: a night of a million lines, and a bank's statement of 500 MB.

Starts ledger_svc alone on an embedded PostgreSQL, loads orders set-wise, writes the PSP's file as
the stub does, with 1 % differences of ten classes, and measures, through real gRPC:

- psql: COPY of the same lines into a bare table, and one join with the ledger, before all else
  and once more after it: the mean of both, for a shared machine is not always as fast;
- IngestSettlementFile, Reconcile, and Reconcile once more;
- lxml's bare iteration over a camt.053, before and after, and its IngestSettlementFile.

Prints seconds by the clock and of processors (ledger and PostgreSQL; on a shared machine trust
these),
ratios, and the ledger's peak of memory. Exits with 1 if the breaks are not exactly
what was seeded; with --strict also for a mark that was missed. Linux only.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from paymesh.reconciliation.v1 import reconciliation_service_pb2 as pb
from paymesh.reconciliation.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from bench import settlement_bank, settlement_day
from bench.problem import BenchError
from bench.report import Mark
from bench.settlement_rig import BANK, PSP, Cost, LedgerRig, ledger_rig

MOST_PSQL_RATIO = 5.0
MOST_LXML_RATIO = 3.0
MOST_READER_MIB = 200.0

_CHUNK_BYTES = 1 << 20
_PATIENCE_S = 3_600.0


def main() -> int:
    """Runs the benchmark; answers the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _say(
        f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before the start; "
        "where others work too, trust the ratios"
    )
    try:
        with ledger_rig(options.place) as rig:
            right, marks = True, []
            if options.lines:
                right, of_day = _day(rig, options.lines)
                marks += of_day
            if options.megabytes:
                marks += _bank(rig, options.megabytes)
    except BenchError as error:
        _say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        _say("bench: interrupted")
        return 130
    _say("marks:\n" + "\n".join(map(str, marks)))
    return 0 if right and (not options.strict or all(mark.reached for mark in marks)) else 1


def _day(rig: LedgerRig, orders: int) -> tuple[bool, list[Mark]]:
    _say(f"\nloading {orders:,} captures and writing their file …")
    day = settlement_day.make_day(rig, orders)
    size = day.file.stat().st_size
    _say(f"{'':<45}seconds   of processors")
    _say(f"  {day.lines:,} lines, {size / 1e6:,.0f} MB, {sum(day.seeded.values()):,} differences")
    first = _bare(rig, day)
    before = rig.forget_peak()
    request = pb.ReconcileRequest(source=PSP, settlement_date=settlement_day.DAY.isoformat())
    with _client(rig) as client:
        with rig.measured() as ingest:
            _ingest(client, day.file, PSP)
        peak = rig.peak_mib()
        _say_cost("IngestSettlementFile", ingest)
        with rig.measured() as reconcile:
            run = client.Reconcile(request, timeout=_PATIENCE_S).run
        _say_cost("Reconcile", reconcile)
        with rig.measured() as repeated:
            again = client.Reconcile(request, timeout=_PATIENCE_S).run
        _say_cost("Reconcile again, nothing new", repeated)
    last = _bare(rig, day)
    bare = Cost((first.seconds + last.seconds) / 2, (first.processor_s + last.processor_s) / 2)
    ratio = (ingest.seconds + reconcile.seconds) / bare.seconds
    by_processor = (ingest.processor_s + reconcile.processor_s) / bare.processor_s
    _say(f"  whole run ÷ psql                       {ratio:8.2f}{by_processor:16.2f}")
    _say(f"  the ledger's memory                    {before:8.0f} MiB before, {peak:.0f} at most")
    found = settlement_day.found(rig)
    right = found == day.seeded and again == run and run.state == pb.RUN_STATE_EXPLAINED
    _say(
        f"  breaks: {run.breaks:,} in {len(run.counts)} classes, "
        + ("exactly those that were seeded" if right else "NOT those that were seeded")
    )
    if not right:
        _say(f"  state {run.state}, again {again == run}")
        _say(f"  too many: {list((found - day.seeded).items())[:10]}")
        _say(f"  missing: {list((day.seeded - found).items())[:10]}")
    return right, [
        Mark(
            f"{day.lines:,} lines, the whole run ÷ psql's COPY and join: {ratio:.2f} "
            f"(at most {MOST_PSQL_RATIO:g})",
            ratio <= MOST_PSQL_RATIO,
        ),
        _memory_mark("CSV", peak),
    ]


def _bare(rig: LedgerRig, day: settlement_day.MadeDay) -> Cost:
    with rig.measured() as cost:
        rig.psql(settlement_day.bare_script(day))
    _say_cost("psql, COPY of the lines and one join", cost)
    rig.psql("DROP TABLE bare; CHECKPOINT;")
    return cost


def _bank(rig: LedgerRig, megabytes: int) -> list[Mark]:
    _say(f"\nwriting a camt.053 of {megabytes} MB …")
    path = rig.folder / "bank.xml"
    entries = settlement_bank.make_statement(path, megabytes * 1_000_000)
    _say(f"  {entries:,} entries, {path.stat().st_size / 1e6:,.0f} MB")
    first = _lxml(path, entries)
    rig.psql("CHECKPOINT;")
    before = rig.forget_peak()
    with _client(rig) as client, rig.measured() as ingest:
        _ingest(client, path, BANK)
    peak = rig.peak_mib()
    _say_cost("IngestSettlementFile", ingest)
    last = _lxml(path, entries)
    lxml_s = (first.seconds + last.seconds) / 2
    ratio, by_processor = ingest.seconds / lxml_s, ingest.processor_s / lxml_s
    _say(f"  ÷ lxml                                 {ratio:8.2f}{by_processor:16.2f}")
    _say(
        f"  the ledger's memory                    {before:8.0f} MiB before, {peak:.0f} at most; "
        f"the bare iteration's process {last.peak_mib:.0f}"
    )
    return [
        Mark(
            f"camt.053 of {megabytes} MB, read and staged ÷ bare lxml: "
            f"{ratio:.2f} (at most {MOST_LXML_RATIO:g})",
            ratio <= MOST_LXML_RATIO,
        ),
        _memory_mark("camt.053", peak),
    ]


def _lxml(path: Path, entries: int) -> settlement_bank.Bare:
    bare = settlement_bank.bare_iteration(path)
    if bare.entries != entries:
        raise BenchError(f"lxml saw {bare.entries} entries")
    # It does nothing else, and is one thread.
    _say_cost("lxml, bare iteration", Cost(bare.seconds, bare.seconds))
    _say(f"  (the ends of entries alone             {bare.ends_seconds:8.1f} s)")
    return bare


def _memory_mark(what: str, peak: float) -> Mark:
    return Mark(
        f"memory of the ledger's process while it reads {what}: {peak:.0f} MiB "
        f"(at most {MOST_READER_MIB:g})",
        peak <= MOST_READER_MIB,
    )


@contextmanager
def _client(rig: LedgerRig) -> Iterator[ReconciliationServiceStub]:
    with grpc.insecure_channel(rig.target, [("grpc.enable_http_proxy", 0)]) as channel:
        yield ReconciliationServiceStub(channel)


def _ingest(client: ReconciliationServiceStub, path: Path, source: str) -> None:
    """Sends a file, until it is stored. Raises BenchError."""

    def parts() -> Iterator[pb.IngestSettlementFileRequest]:
        yield pb.IngestSettlementFileRequest(
            header=pb.SettlementFileHeader(source=source, file_name=path.name)
        )
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield pb.IngestSettlementFileRequest(chunk=chunk)

    file = client.IngestSettlementFile(parts(), timeout=_PATIENCE_S).file
    if file.state != pb.FILE_STATE_INGESTED:
        raise BenchError(f"the file was not taken: {file.problem} {file.problem_place}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.settlement",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--lines", type=int, default=1_000_000, help="orders, and about as many lines (1,000,000)")
    add("--megabytes", type=int, default=500, help="of the camt.053 (500)")
    add("--place", type=Path, help="folder for the data, on the disk to measure (temporary)")
    add("--strict", action="store_true", help="exit with 1 if a mark is not reached")
    return parser.parse_args()


def _say_cost(what: str, cost: Cost) -> None:
    _say(f"  {what:<39}{cost.seconds:8.1f} s {cost.processor_s:12.1f} s")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
