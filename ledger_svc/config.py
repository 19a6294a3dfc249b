"""The settings of ledger_svc: PAYMESH_LEDGER_*."""

from __future__ import annotations

from pydantic import Field

from ledger_svc.reconciliation.sources import DEFAULT, Sources
from mesh.config import Port, ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Those of every service, and those of the reconciliation."""

    model_config = settings_config("PAYMESH_LEDGER_")

    port: Port = 50054
    sources: Sources = Field(default=DEFAULT)
    """The PSPs and banks whose settlement files are taken, as JSON: name → its facts."""
    psp_target: str = ""
    """The PSP's adapter, whose settlement files are fetched where nobody sends them; empty:
    they are not."""
    max_file_bytes: int = Field(default=1 << 30, ge=1, le=4 << 30)
    """How large a settlement file may be. It waits on disk, not in memory."""
