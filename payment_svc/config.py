"""The settings of payment_svc: PAYMESH_PAYMENT_*."""

from __future__ import annotations

from pydantic import Field

from mesh.config import Port, ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Backoffs double from the first to the most."""

    model_config = settings_config("PAYMESH_PAYMENT_")

    port: Port = 50051
    executor_target: str = Field(default="127.0.0.1:50052", min_length=1)
    """As mesh.channel.open_channel takes it: one address, or several replicas."""
    wallet_target: str = Field(default="127.0.0.1:50053", min_length=1)
    ledger_target: str = Field(default="127.0.0.1:50054", min_length=1)

    max_open_orders: int = Field(default=20_000, ge=100)
    """Orders under way in this process; a payment beyond is refused as OVERLOADED. An
    order under way costs about a kilobyte here and a waiting call some tens."""
    lease_ms: int = Field(default=10_000, ge=1_000)
    """How long a replica that says nothing keeps its items. Longer than any statement."""
    poll_ms: int = Field(default=250, ge=10)
    """How often due items, items of the dead and payments elsewhere are looked for."""
    call_deadline_ms: int = Field(default=5_000, ge=100)
    """For the calls to wallet and ledger."""
    item_timeout_ms: int = Field(default=120_000, ge=1_000)
    """After which an operation that the executor did not answer is sent to it again;
    longer than its longest round of the ladder."""

    pending_first_ms: int = Field(default=2_000, ge=10)
    pending_most_ms: int = Field(default=600_000, ge=10)
    unknown_first_ms: int = Field(default=5_000, ge=10)
    unknown_most_ms: int = Field(default=300_000, ge=10)
    delayed_first_ms: int = Field(default=200, ge=10)
    delayed_most_ms: int = Field(default=5_000, ge=10)
    evidence_poll_ms: int = Field(default=30_000, ge=10)
    """How often the ledger is asked whether a settlement file tells of what is unknown, and
    is told again what its register may have missed."""
    parked_poll_ms: int = Field(default=3_600_000, ge=10)
    """How often a parked order whose outcome is unknown is asked about."""
