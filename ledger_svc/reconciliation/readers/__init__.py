"""Settlement files of every format, as lines and statements.

A pure library: bytes in, facts out; no SQL, no gRPC, no clock, no network. It is also what
`paymesh settle inspect` calls (docs/decisions/0010).

    reading = read(stream)
    for item in reading.items: ...    # Line after Line, then every Statement

It blocks and computes: a service calls it in a thread.
"""

from ledger_svc.reconciliation.readers.model import (
    Level,
    Limits,
    Line,
    Lines,
    Problem,
    ProblemCode,
    ReadError,
    ReadReason,
    Statement,
)
from ledger_svc.reconciliation.readers.registry import FORMATS, Format, Reading, read

__all__ = [
    "FORMATS",
    "Format",
    "Level",
    "Limits",
    "Line",
    "Lines",
    "Problem",
    "ProblemCode",
    "ReadError",
    "ReadReason",
    "Reading",
    "Statement",
    "read",
]
