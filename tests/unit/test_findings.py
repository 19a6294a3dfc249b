"""What is wrong with a mesh, from what its processes told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from paymesh.operations.v1 import status_service_pb2 as pb

from mesh.clock import timestamp
from mesh.errors import Code, MeshError, Reason
from paymeshctl.findings import Asked, Finding, findings_of, replica_counts, span

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def status(service: str = "wallet", **change: Any) -> pb.GetStatusResponse:
    """Of a process that is well."""
    database: dict[str, Any] = {
        "address": "127.0.0.1:5432/paymesh",
        "reachable": True,
        "server_version": "18.1",
        "revision": "0002",
        "expected_revision": "0002",
        "time": timestamp(NOW),
        **change.pop("database", {}),
    }
    fields: dict[str, Any] = {
        "service": service,
        "version": "1.2.0",
        "process": "host/7",
        "start_time": timestamp(NOW - timedelta(hours=1)),
        "process_time": timestamp(NOW),
        "database": pb.DatabaseStatus(**database),
    }
    return pb.GetStatusResponse(**(fields | change))


def asked(instance: str = "wallet", **change: Any) -> Asked:
    fields: dict[str, Any] = {
        "instance": instance,
        "address": "127.0.0.1:1",
        "sent": NOW,
        "received": NOW + timedelta(milliseconds=5),
        "status": status(),
    }
    return Asked(**(fields | change))


def failed(instance: str, code: Code) -> Asked:
    error = MeshError(Reason.UNSPECIFIED, "what gRPC says", peer_code=code)
    return asked(instance, status=None, error=error)


def only(*all_asked: Asked) -> Finding:
    (finding,) = findings_of(all_asked)
    assert finding.what
    assert finding.advice
    return finding


def test_nothing_is_wrong_with_what_is_well() -> None:
    lease = pb.Lease(
        epoch=3, process="host/7", lease_until_time=timestamp(NOW + timedelta(seconds=9))
    )
    well = [asked(), asked("payment", status=status("payment", leases=[lease]))]
    assert findings_of(well) == []


@pytest.mark.parametrize(
    ("code", "kind", "there"),
    [
        (Code.UNAVAILABLE, "DOWN", False),
        (Code.DEADLINE_EXCEEDED, "SILENT", False),
        (Code.INTERNAL, "FAILED", False),
        (Code.UNIMPLEMENTED, "NO_STATUS", True),
    ],
)
def test_who_does_not_answer(code: Code, kind: str, there: bool) -> None:
    one = failed("ledger-1", code)
    finding = only(asked(), one)
    assert (finding.kind, finding.instance) == (kind, "ledger-1")
    assert one.answered is there


def test_an_adapter_of_another_psp_need_not_tell_a_status() -> None:
    assert findings_of([failed("psp_stub", Code.UNIMPLEMENTED)]) == []
    down = only(failed("psp_stub", Code.UNAVAILABLE))
    assert down.kind == "DOWN"
    # It may well be up, where an adapter is at another host.
    assert "`--without psp_stub`" in down.advice


def test_another_service_than_the_one_that_should_be_there() -> None:
    finding = only(asked("payment-1", status=status("wallet", version="0.1")))
    assert finding.kind == "OTHER_SERVICE"
    assert "'wallet'" in finding.what


def test_a_database_that_is_away_says_why() -> None:
    away = {"reachable": False, "problem": "connection refused", "revision": "", "time": None}
    finding = only(asked("payment", status=status("payment", database=away)))
    assert finding.kind == "DATABASE_AWAY"
    assert "127.0.0.1:5432/paymesh: connection refused" in finding.what


def test_a_database_that_did_not_answer_all() -> None:
    finding = only(asked(status=status(database={"problem": "too busy"})))
    assert finding.kind == "DATABASE_TROUBLED"


@pytest.mark.parametrize(
    ("revision", "kinds"), [("0001", ["MIGRATIONS_MISSING"]), ("", ["MIGRATIONS_MISSING"])]
)
def test_migrations_that_are_missing(revision: str, kinds: list[str]) -> None:
    found = findings_of([asked(status=status(database={"revision": revision}))])
    assert [finding.kind for finding in found] == kinds


def test_a_newer_schema_is_as_it_is_in_a_roll_out() -> None:
    assert findings_of([asked(status=status(database={"revision": "0003"}))]) == []


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (timedelta(seconds=1.2), "1 s ahead of its own"),
        (timedelta(hours=-2), "2 h behind its own"),
    ],
)
def test_a_database_by_another_clock(offset: timedelta, words: str) -> None:
    finding = only(asked(status=status(database={"time": timestamp(NOW + offset)})))
    assert finding.kind == "CLOCKS_DIFFER"
    assert words in finding.what


@pytest.mark.parametrize("offset", [timedelta(seconds=0.9), timedelta(seconds=-0.9)])
def test_clocks_that_differ_by_little(offset: timedelta) -> None:
    assert findings_of([asked(status=status(database={"time": timestamp(NOW + offset)}))]) == []


def test_a_process_by_another_clock_than_whoever_asks() -> None:
    for later, words in (
        (timedelta(seconds=-70), "1 min 10 s ahead"),
        (timedelta(minutes=3), "behind"),
    ):
        one = asked(sent=NOW + later, received=NOW + later)
        assert words in only(one).what
    # A call that took long says nothing about clocks.
    assert findings_of([asked(sent=NOW - timedelta(seconds=8), received=NOW)]) == []
    assert findings_of([asked(sent=NOW, received=NOW + timedelta(seconds=8))]) == []


@pytest.mark.parametrize(
    "leases",
    [
        [],
        [pb.Lease(process="host/8", lease_until_time=timestamp(NOW + timedelta(seconds=9)))],
        [pb.Lease(process="host/7", lease_until_time=timestamp(NOW - timedelta(seconds=1)))],
        [
            pb.Lease(
                process="host/7", dead=True, lease_until_time=timestamp(NOW + timedelta(seconds=9))
            )
        ],
    ],
)
def test_a_replica_without_a_lease(leases: list[pb.Lease]) -> None:
    finding = only(asked("payment", status=status("payment", leases=leases)))
    assert finding.kind == "LEASE_LOST"


def test_versions_that_differ() -> None:
    finding = only(
        asked(),
        asked("wallet-1", status=status(version="1.10.0")),
        asked("wallet-2", status=status(version="1.10.0")),
    )
    assert (finding.kind, finding.instance) == ("VERSIONS_DIFFER", "wallet")
    assert "1.2.0, while others run 1.10.0" in finding.what


def attention(count: int = 2, **change: Any) -> pb.Attention:
    fields: dict[str, Any] = {
        "kind": pb.ATTENTION_KIND_ORDERS_PARKED,
        "reason": "WRONG_AMOUNT",
        "count": count,
        "oldest_time": timestamp(NOW - timedelta(minutes=125)),
        "payment_ids": ["a" * 32, "b" * 32],
        "advice": "do this",
    }
    return pb.Attention(**(fields | change))


def test_what_a_service_tells_is_passed_on() -> None:
    assert only(asked(status=status(attentions=[attention()]))) == Finding(
        "ORDERS_PARKED",
        "wallet",
        "2 orders parked, the oldest for 2 h 5 min",
        "do this",
        "WRONG_AMOUNT",
        2,
        NOW - timedelta(minutes=125),
        ["a" * 32, "b" * 32],
    )


def test_its_age_is_by_the_clock_that_stamped_it() -> None:
    hour = timedelta(hours=1)
    ahead = status(
        database={"time": timestamp(NOW + hour)},
        attentions=[attention(1, oldest_time=timestamp(NOW + hour - timedelta(minutes=1)))],
    )
    clocks, parked = findings_of([asked(status=ahead)])
    assert clocks.kind == "CLOCKS_DIFFER"
    assert parked.what == "1 order parked, the oldest for 1 min"


def test_replicas_tell_of_one_database_once() -> None:
    other = attention(1, reason="CONTRADICTED")
    found = findings_of(
        [
            asked("wallet", status=status(attentions=[attention(2)])),
            asked("wallet-1", status=status(attentions=[attention(3), other])),
        ]
    )
    assert [(f.instance, f.reason, f.count) for f in found] == [
        ("wallet", "WRONG_AMOUNT", 3),
        ("wallet", "CONTRADICTED", 1),
    ]


def test_what_each_has_in_its_memory_is_told_of_each() -> None:
    driven = attention(1, kind=pb.ATTENTION_KIND_OPERATIONS_UNDER_WAY, reason="")
    found = findings_of(
        [
            asked("executor", status=status("executor", attentions=[driven])),
            asked("executor-1", status=status("executor", attentions=[driven])),
        ]
    )
    assert [finding.instance for finding in found] == ["executor", "executor-1"]


def test_a_kind_that_is_newer_than_this_command() -> None:
    newer = attention(4, oldest_time=None)
    newer.kind = 99  # type: ignore[assignment]
    finding = only(asked(status=status(attentions=[newer])))
    assert (finding.kind, finding.what, finding.advice) == ("99", "99: 4 orders", "do this")


def test_how_many_there_should_be() -> None:
    told = status(replica_counts={"payment": 3, "wallet": 1, "new_service": 1})
    down = failed("payment", Code.UNAVAILABLE)
    counts = replica_counts([down, asked(status=told), asked(status=status())])
    assert (counts["payment"], counts["wallet"], counts["ledger"]) == (3, 1, 1)
    assert set(replica_counts([down]).values()) == {1}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
        (864_000, "10 d"),
    ],
)
def test_a_length_of_time_for_people(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text
