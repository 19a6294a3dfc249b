"""The settings of ledger_svc: PAYMESH_LEDGER_*."""

from __future__ import annotations

from mesh.config import ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Those of every service."""

    model_config = settings_config("PAYMESH_LEDGER_")
