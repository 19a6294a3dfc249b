"""A file of any size is read in the same memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.settlement import (
    OwnFile,
    bal,
    camt,
    mt940,
    ntry,
    stmt,
    stripe,
    stripe_row,
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peaks are read from /proc"
)

ROOM_KIB = 4 * 1024
"""What a reader may grow by: less than a tenth of the large files."""

# A process of its own: what it once took, it never gives back.
PROGRAM = """
import sys
from ledger_svc.reconciliation.readers import ReadError, Statement, read

def peak():
    # Not ru_maxrss: that begins with what the process had before exec.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

def measure(name):
    seen, last = 0, None
    try:
        with open(name, "rb") as stream:
            for last in read(stream).items:
                seen += 1
    except ReadError as error:
        return seen, error.reason
    return seen, last.ties if isinstance(last, Statement) else None

small, large = sys.argv[1:]
measure(small)
before = peak()
seen, answer = measure(large)
print(seen, answer, peak() - before)
"""


def in_a_process_of_its_own(small: Path, large: Path) -> tuple[int, str, int]:
    """What was read of the large file, how it ended, and the KiB that it took on top."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(small), str(large)],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    seen, answer, grown = result.stdout.split()
    return int(seen), answer, int(grown)


def write(path: Path, kind: str, size: int) -> int:
    """A file of about that many bytes that ties. Returns how many entries it has."""
    text = "x" * 3000
    count = max(3, size // 3300)
    if kind == "camt":
        told = f"<TxDtls><RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls>"
        head, _, tail = camt(stmt("@", closing=f"{100 + 5 * count}.00")).partition("@")
        part = ntry("5.00", "CRDT", told)
    elif kind == "camt batch":
        told = f"<TxDtls><RmtInf><Ustrd>{text}</Ustrd></RmtInf></TxDtls>"
        head, _, tail = camt(stmt(ntry("5.00", "CRDT", "@"), closing="105.00")).partition("@")
        part = told
    elif kind == "mt940":
        closing = f"62F:C260131EUR{100 + 4 * count},00"
        head, _, tail = mt940("@", closing=closing).partition(":@\n")
        part = f":61:260130C4,00NTRFA\n:86:{text}\n"
    elif kind == "stripe":
        rows = (
            stripe_row("4.00", description=text),
            stripe_row(f"-{4 * count}.00", category="payout"),
        )
        head, part, tail = stripe(*rows).splitlines(keepends=True)
    else:
        file = (
            OwnFile()
            .open(0)
            .line(5, description=text)
            .close(balance_minor=5 * count, credits_minor=5 * count, lines=count)
        )
        head1, head2, line, closing, end = file.text(lines=count + 2).splitlines(keepends=True)
        head, part, tail = head1 + head2, line, closing + end
    with path.open("w", newline="") as stream:
        stream.write(head)
        for number in range(1, count + 1):
            stream.write(part.replace(",1,CHARGE", f",{number},CHARGE"))
        stream.write(tail)
    return count


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["camt", "camt batch", "mt940", "stripe", "own"])
def test_fifty_megabytes_take_no_more_memory_than_a_page(kind: str, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    write(small, kind, 10_000)
    count = write(large, kind, 50_000_000)
    assert large.stat().st_size > 45_000_000
    seen, ties, grown = in_a_process_of_its_own(small, large)
    assert (seen >= count, ties) == (True, "True")
    assert grown < ROOM_KIB


# What is to be let go of, each in a way of its own: by part, how many at once, and how many KiB
# may be held. Only what no reader asks for is held, up to the limit of a record, as a tree.
FLOODS = {
    "balances": (bal("INFO", "1.00"), 100, ROOM_KIB),
    "opening balances": (bal("OPBD", "100.00"), 100, ROOM_KIB),
    "opening balances that differ": (
        "".join(bal("OPBD", f"{n}.00") for n in range(100)),
        1,
        ROOM_KIB,
    ),
    "unknown elements": ("<Unknown><A>b</A></Unknown>", 100, 8 * ROOM_KIB),
    "entries with unknown elements": (
        ntry("5.00").replace("<NtryDtls></NtryDtls>", "<U/>" * 500),
        1,
        ROOM_KIB,
    ),
    "one entry of many details": ("<NtryDtls><TxDtls/></NtryDtls>", 100, ROOM_KIB),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_refused_or_read_in_the_same_memory(flood: str, tmp_path: Path) -> None:
    part, times, room_kib = FLOODS[flood]
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_text(camt(stmt(ntry("5.00"))))
    inner = ntry("5.00", details="@") if "one entry" in flood else "@"
    head, _, tail = camt(stmt(inner)).partition("@")
    if "one entry" in flood:
        head = head.removesuffix("<NtryDtls>")
        tail = tail.removeprefix("</NtryDtls>")
    with large.open("w") as stream:
        stream.write(head)
        chunk = part * times
        for _ in range(3_000_000 // len(chunk)):
            stream.write(chunk)
        stream.write(tail)
    _, answer, grown = in_a_process_of_its_own(small, large)
    assert (answer == "RECORD_TOO_LONG") is (flood == "unknown elements")
    assert grown < room_kib
