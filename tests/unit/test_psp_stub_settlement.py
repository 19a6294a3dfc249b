"""The calendar of settlement days, and what a statement makes of its lines."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from psp_stub.config import Settings
from psp_stub.settlement import (
    Calendar,
    Carried,
    Deviation,
    Statement,
    Sums,
    bank_lines,
    state,
    time_zone,
    transfer_reference,
    with_bank,
)

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
MOMENT = timedelta(microseconds=1)

zones = st.sampled_from(ZONES).map(time_zone)
cut_offs = st.integers(0, 24 * 60 - 1).map(lambda minutes: timedelta(minutes=minutes))
calendars = st.builds(Calendar, zones, cut_offs)
days = st.dates(date(2020, 1, 1), date(2030, 12, 31))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- days ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "minutes", "day", "end"),
    [
        ("UTC", 0, "2026-12-31", "2027-01-01T00:00"),
        ("UTC", 1_439, "2026-12-31", "2026-12-31T23:59"),
        ("UTC", 1, "2024-02-29", "2024-02-29T00:01"),
        ("Europe/Berlin", 0, "2026-03-28", "2026-03-28T23:00"),
        ("Europe/Berlin", 0, "2026-03-29", "2026-03-29T22:00"),
        ("Europe/Berlin", 0, "2026-10-24", "2026-10-24T22:00"),
        ("Europe/Berlin", 0, "2026-10-25", "2026-10-25T23:00"),
        # 02:30 is skipped that day, and comes twice that day.
        ("Europe/Berlin", 150, "2026-03-29", "2026-03-29T01:30"),
        ("Europe/Berlin", 150, "2026-10-25", "2026-10-25T00:30"),
        ("America/New_York", 1_020, "2026-07-01", "2026-07-01T21:00"),
        ("America/New_York", 1_020, "2026-12-01", "2026-12-01T22:00"),
        ("Asia/Kolkata", 0, "2026-06-01", "2026-06-01T18:30"),
    ],
)
def test_when_a_day_ends(zone: str, minutes: int, day: str, end: str) -> None:
    calendar = Calendar(time_zone(zone), timedelta(minutes=minutes))
    assert calendar.end(date.fromisoformat(day)) == utc(end)


@given(calendars, days)
def test_every_moment_is_of_one_day(calendar: Calendar, day: date) -> None:
    end = calendar.end(day)
    assert end.tzinfo is UTC
    assert calendar.day_of(end) == day + timedelta(days=1)
    assert calendar.day_of(end - MOMENT) == day
    assert calendar.end(day + timedelta(days=1)) > end


@given(calendars, st.datetimes(datetime(2020, 1, 1), datetime(2030, 12, 31)))  # noqa: DTZ001
def test_a_day_holds_its_moments(calendar: Calendar, moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    day = calendar.day_of(moment)
    assert calendar.end(day - timedelta(days=1)) <= moment < calendar.end(day)


def test_utc_needs_no_time_zone_data() -> None:
    assert time_zone("UTC") is UTC
    assert time_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("name", ["", "Berlin", "Europe/Nowhere", "../etc/passwd", "/etc", "a\0b"])
def test_zones_that_there_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="IANA time zone"):
        time_zone(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("day_time_zone", "Mars/Olympus"),
        ("day_cut_off_min", 1_440),
        ("day_cut_off_min", -1),
        ("day_cut_off_min", 0.5),
        ("transfer_delay_days", 2),
        ("bank_account", "de89370400440532013000"),
        ("bank_account", ""),
    ],
)
def test_settings_that_are_refused(name: str, value: object) -> None:
    url = "postgresql://role:password@127.0.0.1/database"
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({"database_url": url, name: value})


# --- statements ------------------------------------------------------------------------


def chain(nets: list[int], *, delayed: bool) -> list[Statement]:
    told: list[Statement] = []
    carried = Carried()
    for net in nets:
        sums = Sums(1, net, 0)
        statement = state("EUR", carried, sums, Deviation(), delayed=delayed)
        told.append(with_bank(statement, bank_lines(statement)))
        carried = Carried.of(told[-1])
    return told


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=20), st.booleans())
def test_every_line_is_paid_once(nets: list[int], delayed: bool) -> None:
    told = chain(nets, delayed=delayed)
    for before, after in pairwise(told):
        assert after.opening_minor == before.closing_minor
        assert after.bank_opening_minor == before.bank_closing_minor
    assert told[-1].closing_minor + told[-1].bank_closing_minor == sum(nets)
    paid = {one.transfer_batch: one.transfer_minor for one in told if one.transfer_batch}
    assert list(paid) == list(range(1, len(paid) + 1))
    for number, amount in paid.items():
        rows = [net for net, one in zip(nets, told, strict=True) if one.lines_batch == number]
        assert sum(rows) == amount > 0


def test_a_transfer_on_the_same_day_or_the_next() -> None:
    assert [one.transfer_minor for one in chain([10, 0, 7], delayed=False)] == [10, 0, 7]
    assert [one.transfer_minor for one in chain([10, 0, 7], delayed=True)] == [0, 10, 0]


def test_what_is_owed_is_set_off_before_anything_is_paid() -> None:
    told = chain([-10, 4, 9], delayed=False)
    assert [one.transfer_minor for one in told] == [0, 0, 3]
    assert [one.closing_minor for one in told] == [-10, -6, 0]
    assert [one.lines_batch for one in told] == [1, 1, 1]


def test_a_change_of_the_delay_loses_nothing() -> None:
    first = state("EUR", Carried(), Sums(1, 10, 0), Deviation(), delayed=True)
    second = state("EUR", Carried.of(first), Sums(1, 5, 0), Deviation(), delayed=False)
    third = state("EUR", Carried.of(second), Sums(1, 2, 0), Deviation(), delayed=True)
    assert [one.transfer_minor for one in (first, second, third)] == [0, 15, 0]
    assert third.closing_minor == third.batch_minor == 2


def test_a_transfer_is_never_brought_to_nothing() -> None:
    deviation = Deviation(transfer_minor=100)
    told = state("EUR", Carried(), Sums(1, 40, 0), deviation, delayed=False)
    assert (told.transfer_minor, told.closing_minor) == (1, 39)


def test_a_reference_fits_a_bank() -> None:
    assert transfer_reference("EUR", 1) == "stub_tr_EUR_00000001"
    assert len(f"{transfer_reference('EUR', 10**8)}_R") <= 35
