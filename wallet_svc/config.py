"""The settings of wallet_svc: PAYMESH_WALLET_*."""

from __future__ import annotations

from mesh.config import Port, ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Those of every service."""

    model_config = settings_config("PAYMESH_WALLET_")

    port: Port = 50053
