"""Whatever comes, a reader answers: statements that add up, or a typed refusal."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger_svc.reconciliation.readers import (
    Level,
    Limits,
    Line,
    ReadError,
    ReadReason,
    Statement,
    read,
)
from tests.support.settlement import (
    OwnFile,
    camt,
    mt940,
    ntry,
    read_all,
    stmt,
    stripe,
    stripe_row,
)

DETAILS = (
    "<TxDtls><Refs><EndToEndId>E&amp;1</EndToEndId></Refs>"
    "<RmtInf><Ustrd>é</Ustrd></RmtInf></TxDtls>"
)
SEEDS = {
    "camt": camt(
        stmt(ntry("5.00", "CRDT", DETAILS * 2), ntry("2.00", "DBIT", DETAILS), closing="103.00")
    ).encode(),
    "mt940": (
        "{1:F01X}{2:O940XN}{4:\n"
        + mt940(
            "61:2601300130C5,00NTRFA//B\nmore",
            "86:166?00X?20EREF+1?21SVWZ+2",
            closing="62M:C260131EUR105,00",
        ).removesuffix("-\n")
        + "-}\n"
    ).encode(),
    "stripe": stripe(
        stripe_row("9.41", "10.00", "0.59", description='a "b"\n'),
        stripe_row("-9.41", category="payout"),
    ).encode(),
    "own": OwnFile().open(7).line(500, 9).line(-77, 0, "REFUND").close().text().encode(),
}
# What makes a difference to one of the parsers.
TOKENS = [
    *(b"<", b">", b"</", b"/>", b"&", b";", b'"', b"'", b",", b"\n", b"\r", b"\x00", b"\xff"),
    *(b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?", b"?>", b"<!DOCTYPE x>", b"&x;", b"&#0;"),
    *(b"-", b"+", b".", b"9" * 30, b"1e9", b"NaN", b"EUR", b"JPY", b"XXX", b"\xe2\x80\xae"),
    *(b":20:", b":61:", b":62F:", b":60M:", b":86:", b"-}", b"{4:", b"{1:", b"RC", b"RD"),
    *(b"<Ntry>", b"</Ntry>", b"<Stmt>", b"</Stmt>", b"<TxDtls>", b"</TxDtls>", b"DBIT", b"PDNG"),
    *(b"END", b"LINE", b"CLOSING", b"true", b"false", b"\xef\xbb\xbf", b"\x1a", b"\x01"),
]


def answers(content: bytes) -> None:
    """Reads it; what is said of each statement must follow from its own lines."""
    lines: list[Line] = []
    statements: list[Statement] = []
    refused: ReadError | None = None
    try:
        for item in read(io.BytesIO(content), Limits(file_bytes=1 << 22)).items:
            if isinstance(item, Statement):
                statements.append(item)
            else:
                lines.append(item)
    except ReadError as error:
        refused = error
    if refused is not None:
        assert refused.reason in ReadReason
        assert refused.where
        assert refused.message
        return
    assert [one.number for one in statements] == list(range(len(statements)))
    for one in statements:
        entries = [
            line for line in lines if line.statement == one.number and line.level is Level.ENTRY
        ]
        amounts = [line.amount_minor for line in entries if line.amount_minor is not None]
        assert len(amounts) == len(entries) == one.entries
        assert sum(amount for amount in amounts if amount > 0) == one.credits_minor
        assert -sum(amount for amount in amounts if amount < 0) == one.debits_minor
        assert {line.currency_code for line in entries} <= {one.currency_code}
        if one.ties and one.opening_minor is not None and one.closing_minor is not None:
            assert one.opening_minor + sum(amounts) == one.closing_minor
        if one.ties is False:
            assert one.problem


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with a few cuts, doublings, exchanges and insertions."""
    content = seed
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        to = draw(st.integers(at, min(len(content), at + draw(st.sampled_from([1, 8, 200])))))
        match draw(st.integers(0, 4)):
            case 0:
                content = content[:at] + content[to:]
            case 1:
                content = content[:to] + content[at:]
            case 2:
                content = content[:at] + draw(st.sampled_from(TOKENS)) + content[to:]
            case 3:
                content = content[:at] + draw(st.binary(max_size=12)) + content[to:]
            case _:
                other = draw(st.sampled_from(sorted(SEEDS)))
                content = content[:at] + SEEDS[other] + content[to:]
    return content


def fuzz(seed: bytes, examples: int) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(mutated(seed))
    def run(content: bytes) -> None:
        answers(content)

    return run


@pytest.mark.parametrize("kind", SEEDS)
def test_the_seeds_are_good_files(kind: str) -> None:
    assert all(one.entries for one in read_all(SEEDS[kind]).statements)


@pytest.mark.parametrize("kind", SEEDS)
def test_a_broken_file_is_answered(kind: str) -> None:
    fuzz(SEEDS[kind], 150)()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", SEEDS)
def test_many_broken_files_are_answered(kind: str) -> None:
    fuzz(SEEDS[kind], 20_000)()


@settings(max_examples=100, deadline=None, database=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"<", b":20:A\n:25:", b"01,", b"\xff\xfe"]))
def test_any_bytes_are_answered(content: bytes, start: bytes) -> None:
    answers(start + content)


AMOUNTS = st.integers(-(10**9), 10**9)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(AMOUNTS, max_size=12), AMOUNTS, st.integers(-1, 1))
def test_every_format_ties_exactly_when_the_sums_do(
    amounts: list[int], opening: int, off: int
) -> None:
    closing = opening + sum(amounts) + off

    def major(minor: int, point: str) -> str:
        return f"{abs(minor) // 100}{point}{abs(minor) % 100:02}"

    def signed(minor: int) -> str:
        return ("-" if minor < 0 else "") + major(minor, ".")

    def mark(minor: int) -> str:
        return "D" if minor < 0 else "C"

    own = OwnFile().open(opening)
    for amount in amounts:
        own.line(amount, 0, "ADJUSTMENT")
    files = [
        camt(
            stmt(
                *(ntry(major(one, "."), "DBIT" if one < 0 else "CRDT") for one in amounts),
                opening=signed(opening),
                closing=signed(closing),
            )
        ),
        mt940(
            *(f"61:260130{mark(one)}{major(one, ',')}NTRFA" for one in amounts),
            opening=f"60F:{mark(opening)}260130EUR{major(opening, ',')}",
            closing=f"62F:{mark(closing)}260131EUR{major(closing, ',')}",
        ),
        own.close(balance_minor=closing).text(),
    ]
    for file in files:
        outcome = read_all(file)
        assert [line.amount_minor for line in outcome.lines] == amounts
        assert (outcome.only.opening_minor, outcome.only.closing_minor) == (opening, closing)
        assert outcome.only.ties is (off == 0)
    payout = stripe_row(signed(-sum(amounts) - off), category="payout")
    outcome = read_all(stripe(*(stripe_row(signed(one)) for one in amounts), payout))
    assert (outcome.only.entries, outcome.only.ties) == (len(amounts), off == 0)
