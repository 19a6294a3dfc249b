"""The settings of ledger_svc: PAYMESH_LEDGER_*."""

from __future__ import annotations

from mesh.config import Port, ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Those of every service."""

    model_config = settings_config("PAYMESH_LEDGER_")

    port: Port = 50054
