"""From payments to the settlement file of their day, by the command line alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import on_linux
from tests.support.folders import open_folder
from tests.support.up_process import UpProcess, run

pytestmark = [on_linux, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder(in_memory=True) as path:
        yield path


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[UpProcess]:
    with UpProcess(folder / "mesh") as up:
        up.wait_until_ready()
        yield up


def pay(up: UpProcess, *orders: str, method: str = "tok_ok") -> dict[str, Any]:
    options = [part for order in orders for part in ("--order", order)]
    done = up.run("pay", "--json", "--buyer", "buyer-1", "--method", method, *options)
    payment: dict[str, Any] = json.loads(done.stdout)["payment"]
    return payment


def answer(up: UpProcess, *arguments: str) -> Any:
    done = up.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def inspect(file: Path) -> Any:
    done = run("settle", "inspect", str(file), "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_file_of_a_day_says_what_the_ledger_says(up: UpProcess, folder: Path) -> None:
    paid = pay(up, "alice=10:EUR:1", "bob=3000:JPY", "carol=1.234:BHD:0.1", "dave=25.50:EUR:2")
    pay(up, "erin=7:EUR", method="tok_declined")

    early = up.run("settle", "fetch", "--date", "2999-01-01")
    assert (early.returncode, early.stdout) == (1, "")
    assert "SETTLEMENT_NOT_READY" in early.stderr

    day = answer(up, "stub", "close-day")["day"]["settlement_date"]
    out = folder / "day.csv"
    fetch = ("settle", "fetch", "--date", day, "--source", "psp_stub")
    fetched = answer(up, *fetch, "--out", str(out))
    assert fetched["bytes"] == out.stat().st_size
    again = answer(up, *fetch, "--out", str(folder))
    assert again["sha256"] == fetched["sha256"]

    statements = inspect(out)
    assert {one["currency_code"]: one["entries"] for one in statements} == {
        "BHD": 2,
        "EUR": 3,
        "JPY": 2,
    }
    assert all(one["ties"] and one["problem"] is None for one in statements)

    with out.open(newline="") as stream:
        lines = [row for row in csv.DictReader(stream) if row["kind"] == "CHARGE"]
    assert {line["order_id"] for line in lines} == {one["order_id"] for one in paid["orders"]}
    assert {line["operation_id"] for line in lines} == {
        operation["operation_id"] for one in paid["orders"] for operation in one["operations"]
    }
    for currency in ("EUR", "JPY", "BHD"):
        booked = answer(up, "ledger", "balance", "psp_receivable", currency, "--source", "psp_stub")
        net = sum(int(one["net_minor"]) for one in lines if one["currency_code"] == currency)
        assert net == booked["balance_minor"] > 0

    bank = folder / "bank.xml"
    answer(up, *fetch, "--format", "camt.053", "--out", str(bank))
    credits_minor = {one["currency_code"]: one["closing_minor"] for one in inspect(bank)}
    assert credits_minor == {
        currency: sum(int(one["net_minor"]) for one in lines if one["currency_code"] == currency)
        for currency in ("BHD", "EUR", "JPY")
    }


def test_a_fault_shows_and_is_gone_when_the_day_is_sent_again(up: UpProcess, folder: Path) -> None:
    pay(up, "alice=10:EUR:1", "alice=11:EUR:1")
    seeded = answer(up, "stub", "seed", "arithmetic-broken", "--by", "5")["fault"]
    day = seeded["settlement_date"]
    closed = answer(up, "stub", "close-day", "--date", day)
    assert [one["applied"] for one in closed["day"]["faults"]] == [1]
    out = folder / "wrong.csv"
    answer(up, "settle", "fetch", "--date", day, "--out", str(out))
    (broken,) = (one for one in inspect(out) if not one["ties"])
    assert broken["currency_code"] == "EUR"
    assert "by 5 minor units" in broken["problem"]

    answer(up, "stub", "resend-day", "--date", day)
    answer(up, "settle", "fetch", "--date", day, "--out", str(out))
    assert all(one["ties"] for one in inspect(out))
    refused = up.run("stub", "seed", "fee-line", "--date", day)
    assert refused.returncode == 1
    assert "WRONG_STATE" in refused.stderr
