"""What settlement is, beside the ledger: files, classes of differences. No I/O."""

from __future__ import annotations

from datetime import date, datetime
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from mesh.money import MAX_AMOUNT_MINOR


class FileState(IntEnum):
    """How a file stands. The numbers are those of the wire and of the database."""

    INGESTED = 1
    QUARANTINED = 2
    WAITING = 3
    SUPERSEDED = 4


class BreakClass(IntEnum):
    """The kinds of differences. The numbers are those of the wire and of the database."""

    NONE = 0
    TIMING = 1
    NEVER_SETTLED = 2
    UNKNOWN_TO_US = 3
    AMOUNT_DIFFERS = 4
    FEE_DIFFERS = 5
    CURRENCY_DIFFERS = 6
    DUPLICATE_IN_FILE = 7
    DUPLICATE_IN_LEDGER = 8
    REFUND_DIFFERS = 9
    CHARGEBACK = 10
    PAYOUT_DIFFERS = 11
    PAYOUT_WITHOUT_BANK_LINE = 12
    BANK_LINE_WITHOUT_PAYOUT = 13
    STATUS_DIFFERS = 14
    REVERSAL_OR_RETURN = 15
    ARITHMETIC_BROKEN = 16
    CHAIN_BROKEN = 17
    FILE_RESENT = 18
    PAGES_INCOMPLETE = 19
    FX_DIFFERENCE = 20
    RESERVE_OR_TRANSFER = 21
    OFFSETTING = 22
    AMBIGUOUS = 23
    CLOSING_DIFFERS = 24
    UNKNOWN_ACCOUNT = 25


class BreakState(IntEnum):
    """How a difference stands. The numbers are those of the wire and of the database."""

    OPEN = 1
    POSTED = 2
    SUGGESTED = 3
    RESOLVED = 4
    CLEARED = 5


class RunState(IntEnum):
    """How a day stands. The numbers are those of the wire and of the database."""

    OPEN = 1
    BALANCED = 2
    EXPLAINED = 3
    BROKEN = 4


class Resolution(IntEnum):
    """What an operator decides. The numbers are those of the wire and of the database."""

    ACCEPT = 1
    POST = 2


class Decision(NamedTuple):
    """An operator's decision about a break; (caller, request_id) is its key."""

    caller: str
    request_id: str
    break_id: UUID
    resolution: Resolution
    actor: str
    note: str


class Close(NamedTuple):
    """An operator's wish to close a day; (caller, request_id) is its key."""

    caller: str
    request_id: str
    source: str
    settlement_date: date
    actor: str


class Delivery(NamedTuple):
    """A file as it was told and as its bytes are. settlement_date: if it was told."""

    source: str
    file_name: str
    format: str
    settlement_date: date | None
    sha256: bytes
    size_bytes: int


class Verdict(NamedTuple):
    """What a look at a file came to. place: where in the file the problem is.

    settlement_date: the latest day of its statements, None if nothing tells it.
    """

    state: FileState
    format: str
    settlement_date: date | None
    lines: int
    problem_class: BreakClass = BreakClass.NONE
    problem: str = ""
    place: str = ""


class StoredFile(NamedTuple):
    """A file as it is stored."""

    file_id: UUID
    source: str
    settlement_date: date | None
    sha256: bytes
    file_name: str
    format: str
    size_bytes: int
    lines: int
    state: FileState
    problem_class: BreakClass
    problem: str
    problem_place: str
    create_time: datetime


class StoredStatement(NamedTuple):
    """A statement as it is stored. Amounts are minor units, balances signed."""

    number: int
    account: str
    currency: str
    settlement_date: date | None
    identity: str
    revision: int
    opening_minor: int | None
    closing_minor: int | None
    explained_minor: int
    entries: int
    credits_minor: int
    debits_minor: int
    ties: bool | None
    problem: str
    is_current: bool


class FoundLine(NamedTuple):
    """A line as evidence. Amounts are signed minor units, as the source's balance moves."""

    file_id: UUID
    sequence: int
    place: str
    source: str
    settlement_date: date
    kind: str
    currency: str
    amount_minor: int
    gross_minor: int | None
    fee_minor: int | None
    source_reference: str
    operation_id: UUID | None
    order_id: UUID | None
    batch_reference: str
    journal_id: UUID | None


class Balance(NamedTuple):
    """The equation of a run in one currency: lines = ledger + breaks + difference.

    opening and closing: of the chain of the day's statements, summed over accounts; None where
    the format carries none.
    """

    currency: str
    opening_minor: int | None
    closing_minor: int | None
    lines_minor: int
    ledger_minor: int
    breaks_minor: int
    difference_minor: int


class Run(NamedTuple):
    """What a reconciliation of a day came to. counts: class → how many breaks."""

    run_id: UUID
    source: str
    settlement_date: date
    version: int
    state: RunState
    cut_off_time: datetime
    files: tuple[UUID, ...]
    lines: int
    matched: int
    create_time: datetime
    counts: tuple[tuple[BreakClass, int], ...] = ()
    balances: tuple[Balance, ...] = ()
    close_time: datetime | None = None
    close_actor: str = ""


class BreakFilter(NamedTuple):
    """Which breaks to list; None, empty and 0 leave a filter out."""

    run_id: UUID | None = None
    source: str = ""
    class_: int = 0
    state: int = 0


class Break(NamedTuple):
    """A difference as it stands, with its evidence. booked_id: the journal that stands."""

    break_id: UUID
    source: str
    settlement_date: date
    class_: BreakClass
    state: BreakState
    last_run_id: UUID
    create_time: datetime
    update_time: datetime
    age_days: int
    base_kind: int
    counter_kind: int
    counter_source: str
    amount_minor: int
    currency: str
    file_id: UUID | None
    sequence: int | None
    sha256: bytes | None
    place: str
    journal_id: UUID | None
    operation_id: UUID | None
    order_id: UUID | None
    psp_reference: str
    rule: str
    booked_id: UUID | None

    @property
    def is_postable(self) -> bool:
        """Whether its proposal moves money that no line moves already, and an entry holds it."""
        tells_only = {BreakClass.CHAIN_BROKEN, BreakClass.PAYOUT_DIFFERS}
        return 0 < abs(self.amount_minor) <= MAX_AMOUNT_MINOR and self.class_ not in tells_only
