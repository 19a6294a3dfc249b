"""The PSPs and banks whose files are taken: PAYMESH_LEDGER_SOURCES."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from mesh.money import MAX_AMOUNT_MINOR


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone, for example Europe/Madrid") from None
    return name


Name = Annotated[str, Field(min_length=1, max_length=63)]
Minor = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR)]


class Source(BaseModel):
    """One PSP or bank. Amounts are minor units of the line's currency.

    accounts: as the files write them; empty takes whatever account a file names. zone and
    cut_off: when a settlement day ends, as an adapter's GetCapabilities tells it: at that time of
    the day, by the clock of that zone; 00:00 is the midnight after it.
    file_days: the days that have a file; one that is missing between two others leaves the later
    one open. `any`: nothing is known.
    settle_days: so long a capture may be in no file before that is a fault.
    fee_tolerance_minor: a fee may differ by so much and be booked without asking.
    rounding_tolerance_minor: a day may miss by so much, and a line that only adjusts the balance
    may be so much, and be booked as rounding.
    fee_basis_points and fee_fixed_minor: what a charge should cost; None: nothing is known.
    bank: the source of the bank that a PSP pays out to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["psp", "bank"]
    # In one order in every process: a run's id is computed from the settings.
    accounts: Annotated[frozenset[str], PlainSerializer(sorted, return_type=list[str])] = (
        frozenset()
    )
    zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    cut_off: time = time()
    file_days: Literal["daily", "weekdays", "any"] = "any"
    settle_days: int = Field(default=3, ge=0, le=366)
    fee_tolerance_minor: Minor = 0
    rounding_tolerance_minor: Minor = 0
    fee_basis_points: int | None = Field(default=None, ge=0, le=10_000)
    fee_fixed_minor: Minor = 0
    bank: str = Field(default="", max_length=63)

    def has_file(self, day: date) -> bool:
        """Whether the source is known to make a file of this day."""
        return self.file_days == "daily" or (self.file_days == "weekdays" and day.isoweekday() <= 5)

    def day_end(self, day: date) -> datetime:
        """The first instant that no longer belongs to the day."""
        # By the wall clock, not by hours that passed.
        return datetime.combine(day, time(), ZoneInfo(self.zone)) + self.ends_after

    @property
    def ends_after(self) -> timedelta:
        """From the midnight that a day is named after to its end, by the clock."""
        at = self.cut_off
        since_midnight = timedelta(
            hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond
        )
        return since_midnight or timedelta(days=1)


Sources = Mapping[Name, Source]

DEFAULT: Sources = {"psp_stub": Source(kind="psp", file_days="daily", rounding_tolerance_minor=1)}
"""What `paymesh up` serves."""
