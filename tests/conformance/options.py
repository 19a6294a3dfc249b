"""What the kit is told of an adapter and its sandbox. The defaults are the stub's."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.money import MAX_AMOUNT_MINOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Payment methods that provoke a behaviour; empty where the sandbox has none for it.

    ok: captured at once. declined: refused at once. slow: captured after a second or more.
    timeout_captured: captured, but the first call is never answered. timeout_nothing: the
    first call is never answered and does nothing. error_captured: captured, but the first
    call hears an error. unavailable: the first call or two hear an error and do nothing.
    pending_success, pending_failure: pending, and then captured or declined.
    """

    ok: str = "tok_ok"
    declined: str = "tok_declined"
    slow: str = "tok_slow"
    timeout_captured: str = "tok_timeout_captured"
    timeout_nothing: str = "tok_timeout_nothing"
    error_captured: str = "tok_error_captured"
    unavailable: str = "tok_unavailable_twice"
    pending_success: str = "tok_pending_success"
    pending_failure: str = "tok_pending_failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an adapter is tried.

    currency, other_currency: two that it charges; amount_minor: about how much each charge
    is, in minor units of the first. largest_minor: the largest amount that is tried.
    list_length: of the long lists. deadline_s, look_up_deadline_s: the executor's own.
    hang_s: how long a call that should never be answered is waited for. evidence_s: within
    which a look-up has to tell of what was captured without an answer. pending_s: within
    which pending charges end. key_memory_s: after which a key is forgotten, if that is soon
    enough to wait for. connect_s: for reaching the adapter. parallel: how many rules are tried
    at once.
    """

    tokens: Tokens = field(default_factory=Tokens)
    currency: str = "EUR"
    other_currency: str = "USD"
    amount_minor: int = 2_000
    largest_minor: int = MAX_AMOUNT_MINOR
    list_length: int = 500
    deadline_s: float = 10.0
    look_up_deadline_s: float = 3.0
    hang_s: float = 1.5
    evidence_s: float = 5.0
    pending_s: float = 15.0
    key_memory_s: float | None = None
    connect_s: float = 10.0
    parallel: int = 8
