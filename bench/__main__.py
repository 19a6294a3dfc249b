"""`python -m bench`: one run that prints all figures and marks. Linux only: it reads /proc.

Exits with 0 even if marks are missed, because machines differ and are shared; with 1 if
the books are wrong or nothing could be measured, and with --strict also for a mark that was
missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bench import report, shapes
from bench.books import check_books
from bench.pgbench import ABSENT, Pgbench, find_pgbench
from bench.problem import BenchError
from bench.rig import Rig, rig
from bench.rounds import IN_FLIGHT, Size, interleaved, slow_cards, unary, wal_both_ways

_WARM_UP_PAYMENTS = 1_000


def main() -> int:
    """Runs the benchmark; answers the exit code."""
    options = _options()
    if not Path("/proc/self/stat").exists():
        _say("bench: needs Linux, whose /proc tells the processor time of processes")
        return 1
    # As Ctrl-C does: everything that was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    try:
        with rig(options.place) as running:
            good = _run(running, options, started)
    except BenchError as error:
        _say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        _say("bench: interrupted")
        return 130
    return 0 if good else 1


def _run(running: Rig, options: argparse.Namespace, started: float) -> bool:
    """Measures and prints; answers whether the books, and if asked the marks, are right."""
    _say(
        f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f} before the start; "
        "where others work too, trust the ratios"
    )
    size = Size(
        options.seconds,
        options.payments,
        options.rounds,
        options.wal_fill,
        options.wal_payments,
    )
    program = find_pgbench()
    pgbench = None if program is None else Pgbench(program, running.server, options.scale)
    if pgbench is not None:
        _say(f"filling pgbench's tables, scale {options.scale} …")
        pgbench.fill()
    else:
        _say(ABSENT)
    _say("warming up …")
    unary(running, replace(size, payments=_WARM_UP_PAYMENTS), in_flight=IN_FLIGHT)
    _say("one payment at a time …")
    alone = unary(running, size, in_flight=1)
    _say(f"{IN_FLIGHT} payments in flight, between rounds of pgbench …")
    full = interleaved(running, pgbench, size, _say)
    _say("fast cards beside slow ones …")
    rate = min(one.load.per_second for one in full.mesh)
    slow = slow_cards(running, size, rate)
    _say("WAL with ordered and with random request_ids …")
    wal = wal_both_ways(running, size)
    _say("other loads …")
    other = shapes.measure_shapes(running, size, _say)
    equations = check_books(running)
    for part in (
        report.unary_lines(alone, full),
        report.commit_lines(alone, full),
        report.pgbench_lines(full, options.scale),
        report.slow_lines(slow),
        report.wal_lines(wal, size.wal_fill),
        report.book_lines(running, equations),
    ):
        _say_part(part)
    _say(f"\na PSP whose median is {shapes.PSP_MEDIAN_MS} ms …")
    _say_part(shapes.shape_lines(other, shapes.slow_psp(options.place, size)))
    _say(f"\n{options.memory_payments:,} payments, for what they leave in memory …")
    memory = shapes.memory(options.place, options.memory_payments // 5, options.memory_payments)
    _say_part(shapes.memory_lines(memory))
    marks = report.marks(full, slow) + shapes.shape_marks(other, memory, full)
    quick = " (a quick run is too short to judge by)" if options.quick else ""
    _say_part([f"marks{quick}:", *map(str, marks)])
    _say(f"took {time.monotonic() - started:.0f} s")
    right = all(equation.holds for equation in equations)
    return right and (not options.strict or all(mark.reached for mark in marks))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--seconds", type=_positive, help="of each round (7)")
    add("--payments", type=_positive, default=100_000, help="at most in each round (100,000)")
    add("--rounds", type=_positive, help=f"of the mesh at {IN_FLIGHT} in flight (3)")
    add("--scale", type=_positive, help="of pgbench (50)")
    add("--wal-fill", type=_positive, help="payments of each kind before that (2,000)")
    add("--wal-payments", type=_positive, help="payments whose WAL is measured (2,000)")
    add("--memory-payments", type=_positive, help="of the long run (100,000)")
    add("--place", type=Path, help="folder for the data, on the disk to measure (temporary)")
    add("--quick", action="store_true", help="shows that all works; figures mean little")
    add("--strict", action="store_true", help="exit with 1 if a mark is not reached")
    options = parser.parse_args()
    usual, quick = (7, 3, 50, 2_000, 2_000, 100_000), (3, 1, 5, 500, 500, 5_000)
    for name, value in zip(
        ("seconds", "rounds", "scale", "wal_fill", "wal_payments", "memory_payments"),
        quick if options.quick else usual,
        strict=True,
    ):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _say(text: str) -> None:
    print(text, flush=True)


def _say_part(lines: Iterable[str]) -> None:
    _say("\n" + "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
