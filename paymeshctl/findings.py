"""What is wrong with a mesh, from what its processes told of themselves. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from paymesh.operations.v1 import status_service_pb2 as pb

from mesh.errors import Code, MeshError
from paymeshctl.ports import PORT_OFFSETS, instance_parts

CLOCK_TOLERANCE = timedelta(seconds=1)

# A PSP's adapter need not be ours.
_MAY_BE_FOREIGN = "psp_stub"

_MIGRATE = "Run `paymesh migrate` (`paymesh up` does so when it starts)."
_START = (
    "Start it; `paymesh up` starts what died by itself, and says so. See its log for the cause. Or "
    "it is at another host, as your PSP's adapter may be: then ask with `--without {service}`."
)
_CLOCKS = "Set the machines' clocks by NTP. What decides goes by the database's time."

_WORDS: Mapping[int, str] = {
    pb.ATTENTION_KIND_ORDERS_PARKED: "{orders} parked",
    pb.ATTENTION_KIND_ORDERS_UNKNOWN: "{orders} of which the PSP has not told what became of them",
    pb.ATTENTION_KIND_ORDERS_NOT_BOOKED: "{orders} captured, and not credited and booked",
    pb.ATTENTION_KIND_ORDERS_PROCESSING: "{orders} still on the way",
    pb.ATTENTION_KIND_OPERATIONS_OVERDUE: "{operations} due, and taken by nobody",
    pb.ATTENTION_KIND_OPERATIONS_ORPHANED: "{operations} left by a dead replica, taken by nobody",
    pb.ATTENTION_KIND_OPERATIONS_UNDER_WAY: "{operations} at the PSP for long",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking one instance: a status, or an error.

    sent, received: by the clock of whoever asked.
    """

    instance: str
    address: str
    sent: datetime
    received: datetime
    status: pb.GetStatusResponse | None = None
    error: MeshError | None = None

    @property
    def service(self) -> str:
        """The service that should be there."""
        return instance_parts(self.instance)[0]

    @property
    def answered(self) -> bool:
        """Whether anybody is there, even if it does not know what it was asked."""
        return self.error is None or self.error.code is Code.UNIMPLEMENTED

    @property
    def database(self) -> pb.DatabaseStatus | None:
        """What it said of its database, if that answered."""
        if self.status is None or not self.status.database.reachable:
            return None
        return self.status.database

    @property
    def skew(self) -> timedelta | None:
        """How far the database's clock is ahead of the process's, if that is known."""
        if self.status is None or self.database is None or not self.database.HasField("time"):
            return None
        return _time(self.database.time) - _time(self.status.process_time)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. kind: UPPER_SNAKE, stable; advice: what to do."""

    kind: str
    instance: str
    what: str
    advice: str
    reason: str = ""
    count: int = 1
    oldest_time: datetime | None = None
    payment_ids: Sequence[str] = ()


def replica_counts(asked: Iterable[Asked]) -> dict[str, int]:
    """How many of each service there should be, as those who answered were told; at least one."""
    counts = dict.fromkeys(PORT_OFFSETS, 1)
    for one in asked:
        for service, count in one.status.replica_counts.items() if one.status is not None else ():
            counts[service] = max(counts.get(service, 1), count)
    return counts


def findings_of(asked: Sequence[Asked]) -> list[Finding]:
    """What is wrong: who is down first, then what they told."""
    found = [finding for one in asked for finding in _of_instance(one)]
    return [*found, *_of_versions(asked), *_of_attentions(asked)]


def _of_instance(one: Asked) -> Iterator[Finding]:
    if one.error is not None:
        yield from _of_error(one, one.error)
        return
    status = one.status
    if status is None:
        return
    if status.service != one.service:
        yield Finding(
            "OTHER_SERVICE",
            one.instance,
            f"{one.address} is {status.service!r}",
            "See that --target names the port base of one mesh.",
        )
        return
    yield from _of_database(one, status.database)
    yield from _of_clocks(one, status)
    yield from _of_lease(one, status)


def _of_error(one: Asked, error: MeshError) -> Iterator[Finding]:
    if error.code is Code.UNIMPLEMENTED:
        if one.service != _MAY_BE_FOREIGN:
            yield Finding(
                "NO_STATUS",
                one.instance,
                f"what is at {one.address} tells no status",
                "Bring it to the version of this command, or see that --target is right.",
            )
    elif error.code is Code.UNAVAILABLE:
        yield Finding(
            "DOWN",
            one.instance,
            f"nobody answers at {one.address}",
            _START.format(service=one.service),
        )
    elif error.code is Code.DEADLINE_EXCEEDED:
        yield Finding(
            "SILENT",
            one.instance,
            f"{one.address} accepts calls and does not answer them in time",
            "It is stopped, hangs or has far too much to do: see its log, and start it again.",
        )
    else:
        yield Finding("FAILED", one.instance, f"{one.address} answers {error}", "See its log.")


def _of_database(one: Asked, database: pb.DatabaseStatus) -> Iterator[Finding]:
    if not database.reachable:
        yield Finding(
            "DATABASE_AWAY",
            one.instance,
            f"it can't reach its database {database.address}: {database.problem}",
            "Bring PostgreSQL back. Nothing is accepted meanwhile, and nothing accepted is lost.",
        )
        return
    if database.problem:
        yield Finding(
            "DATABASE_TROUBLED",
            one.instance,
            f"its database {database.address} did not answer all: {database.problem}",
            "See PostgreSQL's log, and ask again.",
        )
    if database.revision < database.expected_revision:
        yield Finding(
            "MIGRATIONS_MISSING",
            one.instance,
            f"its database is at revision {database.revision or 'none'} and it needs "
            f"{database.expected_revision}",
            _MIGRATE,
        )


def _of_clocks(one: Asked, status: pb.GetStatusResponse) -> Iterator[Finding]:
    skew = one.skew
    if skew is not None and abs(skew) > CLOCK_TOLERANCE:
        yield Finding(
            "CLOCKS_DIFFER",
            one.instance,
            f"its database's clock is {_ahead(skew)} its own",
            _CLOCKS,
        )
    told = _time(status.process_time)
    # It was told at some moment of the call: only what lies outside is a difference.
    ours = told - min(max(told, one.sent), one.received)
    if abs(ours) > CLOCK_TOLERANCE:
        yield Finding(
            "CLOCKS_DIFFER", one.instance, f"its clock is {_ahead(ours)} this machine's", _CLOCKS
        )


def _of_lease(one: Asked, status: pb.GetStatusResponse) -> Iterator[Finding]:
    if one.service != "payment" or one.database is None or status.database.problem:
        return
    now = _time(one.database.time)
    if not any(
        lease.process == status.process and not lease.dead and _time(lease.lease_until_time) > now
        for lease in status.leases
    ):
        yield Finding(
            "LEASE_LOST",
            one.instance,
            "it holds no lease, so others take over what it drives",
            "It takes a new one as soon as it can write: if this stays, see its log.",
        )


def _of_versions(asked: Sequence[Asked]) -> Iterator[Finding]:
    running: dict[str, list[str]] = {}
    for one in asked:
        if one.status is not None:
            running.setdefault(one.status.version, []).append(one.instance)
    if len(running) > 1:
        newest, *older = sorted(running, key=_version_key, reverse=True)
        for version in older:
            yield Finding(
                "VERSIONS_DIFFER",
                ", ".join(running[version]),
                f"runs {version}, while others run {newest}",
                "Fine for the time of a roll-out; else start them anew from one version.",
            )


def _of_attentions(asked: Sequence[Asked]) -> list[Finding]:
    """What the services told. Replicas tell the same of their common database: told once."""
    found: dict[tuple[str, int, str], Finding] = {}
    for one in asked:
        for attention in one.status.attentions if one.status is not None else ():
            in_memory = attention.kind == pb.ATTENTION_KIND_OPERATIONS_UNDER_WAY
            whose = one.instance if in_memory else one.service
            finding = _of_attention(whose, attention, _now_there(one))
            known = found.get(key := (whose, attention.kind, attention.reason))
            if known is None or known.count < finding.count:
                found[key] = finding
    return list(found.values())


def _of_attention(whose: str, attention: pb.Attention, now: datetime) -> Finding:
    name = kind_name(attention.kind)
    words = _WORDS.get(attention.kind, f"{name.lower().replace('_', ' ')}: {{orders}}")
    count = f"{attention.count}"
    what = words.format(
        orders=f"{count} order{'s' if attention.count != 1 else ''}",
        operations=f"{count} operation{'s' if attention.count != 1 else ''}",
    )
    finding = Finding(
        name,
        whose,
        what,
        attention.advice,
        reason=attention.reason,
        count=attention.count,
        payment_ids=list(attention.payment_ids),
    )
    if not attention.HasField("oldest_time"):
        return finding
    oldest = _time(attention.oldest_time)
    return replace(finding, what=f"{what}, the oldest for {span(now - oldest)}", oldest_time=oldest)


def kind_name(kind: int) -> str:
    """The kind without its prefix; the number of one that is newer than this command."""
    value = pb.AttentionKind.DESCRIPTOR.values_by_number.get(kind)
    return str(kind) if value is None else value.name.removeprefix("ATTENTION_KIND_")


def span(length: timedelta) -> str:
    """A length of time for people, in its two largest units: `2 h 5 min`."""
    seconds = max(0, round(length.total_seconds()))
    for size, name, part, part_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{seconds} s"


def _ahead(skew: timedelta) -> str:
    return f"{span(abs(skew))} {'ahead of' if skew > timedelta() else 'behind'}"


def _now_there(one: Asked) -> datetime:
    """The time by which the instance tells since when something is open."""
    skew = one.skew or timedelta()
    return one.received if one.status is None else _time(one.status.process_time) + skew


def _version_key(version: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in version.split("."))


def _time(stamp: object) -> datetime:
    return stamp.ToDatetime(UTC)  # type: ignore[attr-defined, no-any-return]
