"""The settings of ledger_svc: PAYMESH_LEDGER_*."""

from __future__ import annotations

from pathlib import Path

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
    drop_folder: Path | None = None
    """Where settlement files are dropped, by SFTP for example, in a folder for each source;
    None: nowhere. It must be there when the service starts."""
    drop_poll_ms: int = Field(default=5_000, ge=10)
    """How often it is looked into."""
    drop_quiet_ms: int = Field(default=10_000, ge=0)
    """So long a file must be unchanged before it is taken for whole."""
