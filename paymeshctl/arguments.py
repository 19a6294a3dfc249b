"""What is typed at the command line, as what the RPCs take; and the options verbs share.

Only what must be read is checked here. Whether it is allowed is for the mesh to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.common.v1.money_pb2 import Money
from paymesh.payment.v1.payment_service_pb2 import NewOrder

from mesh.errors import Reason
from mesh.money import exponent
from paymeshctl.client import (
    DEFAULT_TARGET,
    PAY_TIMEOUT_S,
    READ_TIMEOUT_S,
    RECONCILIATION_TIMEOUT_S,
    SETTLEMENT_TIMEOUT_S,
    STATUS_TIMEOUT_S,
    TARGET_SETTING,
)
from paymeshctl.exits import CommandError, Exit
from paymeshctl.ports import MAX_REPLICAS, PORT_OFFSETS

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the answer as JSON, in the names of its .proto.")
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="HOST:PORT_BASE",
        help=f"Where the mesh is; by default ${TARGET_SETTING}, else {DEFAULT_TARGET}.",
    ),
]
CallerOption = Annotated[
    str,
    typer.Option(
        "--caller",
        envvar="PAYMESH_CALLER",
        help="The backend in whose name to call; request_ids of different callers never meet.",
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0.1,
        help="Seconds that a call may take; by default what the verb needs "
        f"(status {STATUS_TIMEOUT_S:.0f}, reads {READ_TIMEOUT_S:.0f}, paying "
        f"{PAY_TIMEOUT_S:.0f}, settlement {SETTLEMENT_TIMEOUT_S:.0f}, "
        f"reconciliation {RECONCILIATION_TIMEOUT_S:.0f}).",
    ),
]
PageSize = Annotated[int, typer.Option("--page-size", min=0, help="How many at most; 0 means 50.")]
PageToken = Annotated[
    str, typer.Option("--page-token", help="The next_page_token of the page before.")
]
DayOption = Annotated[
    str,
    typer.Option("--date", metavar="DAY", help="YYYY-MM-DD, or today or yesterday (by UTC)."),
]

ORDER_FORM = "SELLER=AMOUNT:CURRENCY[:COMMISSION[:REFERENCE]]"
_DAYS_AGO = {"today": 0, "yesterday": 1}


def parse_order(text: str) -> NewOrder:
    """An order from ORDER_FORM, amounts in major units: `shoes-and-more=12.50:EUR:1.25`.

    Raises CommandError.
    """
    seller, equals, rest = text.partition("=")
    parts = rest.split(":", 3)
    if not equals or len(parts) < 2:
        raise CommandError(
            Exit.BAD_USAGE, f"the order {text!r} is not {ORDER_FORM}, for example alice=12.50:EUR"
        )
    currency = parts[1]
    order = NewOrder(seller_id=seller, amount=parse_money(parts[0], currency))
    if len(parts) > 2 and parts[2]:
        order.commission.CopyFrom(parse_money(parts[2], currency))
    if len(parts) > 3:
        order.reference = parts[3]
    return order


def parse_money(amount: str, currency_code: str) -> Money:
    """An amount in major units as Money, by integer arithmetic only. Raises CommandError."""
    digits = exponent(currency_code)
    if digits is None:
        raise CommandError(
            Exit.BAD_USAGE,
            f"{currency_code!r} is not a currency of ISO 4217",
            reason=Reason.UNKNOWN_CURRENCY,
        )
    whole, point, part = amount.removeprefix("-").partition(".")
    if not _is_digits(whole) or (point and not _is_digits(part)):
        raise CommandError(Exit.BAD_USAGE, f"{amount!r} is not an amount, for example 12.50")
    if len(part) > digits:
        raise CommandError(
            Exit.BAD_USAGE, f"{amount!r} has more than the {digits} decimals of {currency_code}"
        )
    minor = int(whole + part.ljust(digits, "0"))
    if minor >= 1 << 63:
        raise CommandError(Exit.BAD_USAGE, f"{amount!r} is more than any amount may be")
    return Money(
        amount_minor=-minor if amount.startswith("-") else minor, currency_code=currency_code
    )


def parse_replicas(texts: Sequence[str]) -> dict[str, int]:
    """How many of each service, from `SERVICE=COUNT[,SERVICE=COUNT…]` each. Raises CommandError."""
    replicas: dict[str, int] = {}
    for item in (item for text in texts for item in text.split(",")):
        service, equals, count = item.strip().partition("=")
        if service not in PORT_OFFSETS:
            raise CommandError(
                Exit.BAD_USAGE,
                f"--replicas {item!r}: there is no such service; there are "
                f"{', '.join(PORT_OFFSETS)} (for example --replicas payment=2,executor=2)",
            )
        if not equals or not _is_digits(count) or not 1 <= int(count) <= MAX_REPLICAS:
            raise CommandError(
                Exit.BAD_USAGE,
                f"--replicas {item!r}: how many must be 1 to {MAX_REPLICAS}, for example "
                f"{service}=2",
            )
        if service in replicas:
            raise CommandError(Exit.BAD_USAGE, f"--replicas names {service} twice")
        replicas[service] = int(count)
    return replicas


def parse_without(texts: Sequence[str]) -> set[str]:
    """The services that are left out. Raises CommandError for what is none."""
    left_out = set(texts)
    if unknown := sorted(left_out - set(PORT_OFFSETS)):
        raise CommandError(
            Exit.BAD_USAGE,
            f"--without {unknown[0]!r}: there is no such service; there are "
            f"{', '.join(PORT_OFFSETS)}",
        )
    return left_out


def parse_metadata(texts: Sequence[str]) -> dict[str, str]:
    """Notes from `KEY=VALUE` each. Raises CommandError."""
    notes = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise CommandError(Exit.BAD_USAGE, f"the note {text!r} is not KEY=VALUE")
        notes[key] = value
    return notes


def parse_time(text: str | None) -> Timestamp | None:
    """A time from ISO 8601; UTC where it names no zone. Raises CommandError."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(
            Exit.BAD_USAGE, f"{text!r} is not a time of ISO 8601, for example 2026-03-01T12:00:00Z"
        ) from error
    stamp = Timestamp()
    stamp.FromDatetime(time if time.tzinfo else time.replace(tzinfo=UTC))
    return stamp


def parse_day(text: str) -> str:
    """A day as YYYY-MM-DD, from that or from a word of _DAYS_AGO (by UTC). Raises CommandError."""
    if text in _DAYS_AGO:
        return (datetime.now(UTC).date() - timedelta(days=_DAYS_AGO[text])).isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise CommandError(
            Exit.BAD_USAGE, f"{text!r} is not a day, for example 2026-03-01, today or yesterday"
        ) from error


def parse_enum(enum: Any, text: str, what: str) -> int:
    """An enum's value from its name, in any case and without the prefix. Raises CommandError."""
    prefix: str = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name = text.upper().replace("-", "_").removeprefix(prefix)
    value = enum.DESCRIPTOR.values_by_name.get(prefix + name)
    if value is None or value.number == 0:
        known = ", ".join(
            value.name.removeprefix(prefix).lower()
            for value in enum.DESCRIPTOR.values
            if value.number
        )
        raise CommandError(Exit.BAD_USAGE, f"there is no {what} {text!r}; there are {known}")
    return int(value.number)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()
