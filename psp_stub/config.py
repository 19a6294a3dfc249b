"""The stub's settings: PAYMESH_PSP_STUB_*."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from mesh.config import Port, ServiceSettings, settings_config
from psp_stub.settlement import time_zone

_HOUR_MS = 3_600_000.0

Milliseconds = Annotated[float, Field(ge=0, le=_HOUR_MS, allow_inf_nan=False)]


class Settings(ServiceSettings):
    """How this PSP behaves. The defaults are a PSP that answers at once."""

    model_config = settings_config("PAYMESH_PSP_STUB_")

    port: Port = 50055
    latency_median_ms: Milliseconds = 0.0
    """Half of the charges are answered within this time; 0 is no latency at all."""
    latency_p99_ms: Milliseconds = 0.0
    """99 % are answered within this time (log-normal); 0 gives all of them the median."""
    latency_seed: int = 1
    """The same seed draws the same latencies, in the order in which charges arrive."""
    slow_ms: Milliseconds = 2_000.0
    """How long tok_slow takes."""
    pending_ms: Milliseconds = 3_000.0
    """How long the pending tokens stay pending, by the database's time."""
    key_memory_s: float = Field(default=86_400.0, gt=0, le=31_536_000, allow_inf_nan=False)
    """How long after its first call a key is remembered. A forgotten key is a new charge."""
    fee_bps: int = Field(default=290, ge=0, le=10_000)
    """The fee's share of each capture, in basis points (290 is 2.9 %)."""
    fee_fixed_minor: int = Field(default=30, ge=0, le=1_000_000)
    """The fee's fixed part, in minor units of a currency with two decimals; other currencies
    pay the same in major units (30 is 0.30: 300 fils of BHD, 0 yen)."""

    day_time_zone: str = "UTC"
    """The IANA time zone of settlement days."""
    day_cut_off_min: int = Field(default=0, ge=0, lt=24 * 60)
    """When a settlement day ends: minutes since that day's midnight, by the clock of that
    zone; 0 is the midnight after it."""
    transfer_delay_days: int = Field(default=0, ge=0, le=1)
    """0: what a day earned is transferred to our bank the same day; 1: the next day."""
    bank_account: str = Field(
        default="DE89370400440532013000", pattern=r"^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$"
    )
    """The IBAN of our account at the bank, where transfers go."""

    @field_validator("day_time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        time_zone(name)
        return name

    @field_validator("latency_p99_ms")
    @classmethod
    def _not_below_median(cls, p99_ms: float, info: ValidationInfo) -> float:
        median_ms = info.data.get("latency_median_ms", 0.0)
        if p99_ms and not 0 < median_ms <= p99_ms:
            raise ValueError(
                "must be 0 or at least PAYMESH_PSP_STUB_LATENCY_MEDIAN_MS, which must then be "
                "above 0"
            )
        return p99_ms
