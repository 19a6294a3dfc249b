"""A bank's day as camt.053 of many bytes, and lxml's bare iteration over it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.problem import BenchError

DAY = "2026-03-02"
_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>
<GrpHdr><MsgId>BENCH-1</MsgId><CreDtTm>2026-03-02T23:30:00Z</CreDtTm></GrpHdr>
<Stmt><Id>{day}</Id><ElctrncSeqNb>61</ElctrncSeqNb><CreDtTm>2026-03-02T23:30:00Z</CreDtTm>
<Acct><Id><IBAN>DE02120300000000202051</IBAN></Id><Ccy>EUR</Ccy></Acct>
<Bal><Tp><CdOrPrtry><Cd>OPBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">0.00</Amt>
<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-03-01</Dt></Dt></Bal>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">{closing}</Amt>
<CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-03-02</Dt></Dt></Bal>
"""
_ENTRY = """<Ntry><NtryRef>{number}</NtryRef><Amt Ccy="EUR">{amount}</Amt>\
<CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>
<BookgDt><Dt>2026-03-02</Dt></BookgDt><ValDt><Dt>2026-03-02</Dt></ValDt>
<AcctSvcrRef>BR{number:014d}</AcctSvcrRef>
<BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>ESCT</SubFmlyCd></Fmly></Domn></BkTxCd>
<NtryDtls><TxDtls><Refs><EndToEndId>ORDER-{number:012d}</EndToEndId></Refs>
<RmtInf><Ustrd>Payment of order {number} by our buyer</Ustrd></RmtInf></TxDtls></NtryDtls></Ntry>
"""
_TAIL = "</Stmt></BkToCstmrStmt></Document>\n"
_BLOCK_ENTRIES = 2_000

# Every element once, and let go of: a bare iteration over the file. And the least that a streaming
# reader could do that needs nothing of what an entry says: only the ends of entries.
_BARE = """
import json, resource, sys, time
from lxml import etree
parse = lambda **more: etree.iterparse(
    sys.argv[1], events=("end",), resolve_entities=False, no_network=True, load_dtd=False,
    huge_tree=False, **more,
)
started = time.perf_counter()
for _, element in parse():
    if element.tag.endswith("}Ntry"):
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
seconds = time.perf_counter() - started
started = time.perf_counter()
entries = 0
for _, element in parse(tag="{*}Ntry"):
    entries += 1
    element.clear()
    while element.getprevious() is not None:
        del element.getparent()[0]
ends_seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([entries, seconds, ends_seconds, peak]))
"""


class Bare(NamedTuple):
    """What the bare iteration took; its process's peak in MiB.

    ends_seconds: for the ends of entries alone.
    """

    entries: int
    seconds: float
    ends_seconds: float
    peak_mib: float


def make_statement(path: Path, size_bytes: int) -> int:
    """Writes a statement of about so many bytes; answers with its entries."""
    sample = len(_ENTRY.format(number=123456, amount="123.45"))
    entries = max(size_bytes // sample, 1)
    amounts = [100 + number * 7_919 % 90_000 for number in range(entries)]
    with path.open("w") as output:
        output.write(_HEAD.format(day=DAY, closing=_major(sum(amounts))))
        for first in range(0, entries, _BLOCK_ENTRIES):
            output.write(
                "".join(
                    _ENTRY.format(number=first + at, amount=_major(amount))
                    for at, amount in enumerate(amounts[first : first + _BLOCK_ENTRIES])
                )
            )
        output.write(_TAIL)
    return entries


def bare_iteration(path: Path) -> Bare:
    """Iterates by lxml over the file, in a process of its own. Raises BenchError."""
    done = subprocess.run(
        [sys.executable, "-c", _BARE, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"lxml failed: {done.stderr.strip()[-500:]}")
    return Bare(*json.loads(done.stdout))


def _major(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02d}"
