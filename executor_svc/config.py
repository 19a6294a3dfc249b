"""The executor's settings: PAYMESH_EXECUTOR_*."""

from __future__ import annotations

from pydantic import Field

from mesh.config import Port, ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Where the PSP is and how long it may take."""

    model_config = settings_config("PAYMESH_EXECUTOR_")

    port: Port = 50052
    psp_target: str = Field(default="127.0.0.1:50055", min_length=1)
    """The PSP adapter; as mesh.channel.open_channel takes it."""
    psp_deadline_ms: int = Field(default=10_000, ge=1, le=600_000)
    """How long the PSP may take for a charge; then its outcome is unknown and looked up."""
    look_up_deadline_ms: int = Field(default=3_000, ge=1, le=600_000)
    """How long the PSP may take for a look-up or for its capabilities."""
    ladder_backoff_ms: int = Field(default=100, ge=0, le=60_000)
    """At most this long after an unknown outcome follows its look-up."""
    key_window_s: float = Field(default=86_400.0, gt=0, le=31_536_000, allow_inf_nan=False)
    """How long the PSP is taken to remember a key, if the adapter does not say less."""
