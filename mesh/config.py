"""Settings: environment variables PAYMESH_*, read once, frozen, refused at start.

A service subclasses `ServiceSettings` with its own prefix:

    class Settings(ServiceSettings):
        model_config = settings_config("PAYMESH_WALLET_")
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from mesh.secret_files import BadSecretError, database_url

EXIT_BAD_SETTINGS = 2

S = TypeVar("S", bound=BaseSettings)

Port = Annotated[int, Field(ge=0, le=65535)]


def settings_config(prefix: str) -> SettingsConfigDict:
    """Frozen settings whose variables start with `prefix`."""
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore")


class ServiceSettings(BaseSettings):
    """What every service needs."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """The address to listen on."""
    port: Port
    """The port to listen on; 0 takes a free one."""
    database_url: str = Field(pattern=r"^postgresql://", repr=False)
    """The service's own database, as its own role. Or DATABASE_URL_FILE, or this without a
    password and DATABASE_PASSWORD_FILE: see mesh.secret_files."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_concurrent_calls: int = Field(default=20_000, ge=1)
    """Calls under way at once; more are refused with RESOURCE_EXHAUSTED. A waiting call
    costs some tens of kilobytes, so this bounds memory, not load."""
    drain_s: float = Field(default=10.0, ge=0, le=600)
    """How long a stopping server waits for its calls."""
    metrics_port: Port = 0
    """Where Prometheus reads the metrics, by HTTP on the same host; 0 is nowhere."""
    gauges_interval_ms: int = Field(default=5_000, ge=100, le=600_000)
    """How often the numbers that only the database knows are read for the metrics."""
    traces_file: Path | None = None
    """The file that spans are appended to (OTLP, a JSON object a line), of this process
    alone; none by default, and then tracing costs nothing."""
    traces_ratio: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    """The share of payments that are traced, the same ones in every service."""
    replicas: str = Field(default="", pattern=r"^([a-z_]+=[1-9][0-9]?(,|$))*$")
    """How many processes of each service were started with this one, `payment=2,wallet=1`:
    told to operators, who else would not miss one that is down."""

    def replica_counts(self) -> dict[str, int]:
        """`replicas` by service."""
        counts = (item.partition("=") for item in self.replicas.split(",") if item)
        return {service: int(count) for service, _, count in counts}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code, then files that hold secrets, then the environment."""
        del dotenv_settings, file_secret_settings
        return init_settings, _SecretFiles(settings_cls), env_settings

    @field_validator("database_url", mode="before")
    @classmethod
    def _could_be_read(cls, url: object) -> object:
        if isinstance(url, BadSecretError):
            raise PydanticCustomError(
                "secret_file", "{said}", {"variable": url.variable, "said": url.said}
            )
        return url

    @field_validator("database_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        try:
            make_url(url)
        except (ArgumentError, ValueError):
            # Without the cause, which would repeat the password.
            raise ValueError("must be postgresql://role:password@host:port/database") from None
        return url


class _SecretFiles(PydanticBaseSettingsSource):
    """The database's URL, put together of the environment and of the files that it names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Asked for by the base class, and answered for all fields by the call."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """A secret that can't be had is the value, so that it is refused beside the others."""
        prefix = str(self.config.get("env_prefix", ""))
        try:
            url = database_url(f"{prefix}DATABASE_URL", os.environ)
        except BadSecretError as error:
            return {"database_url": error}
        return {} if url is None else {"database_url": url}


def load(cls: type[S]) -> S:
    """Reads the settings; prints each bad one with name, value and rule, and exits 2."""
    try:
        return cls()
    except ValidationError as error:
        prefix = str(cls.model_config.get("env_prefix", ""))
        for problem in error.errors(include_url=False):
            field = prefix + "_".join(str(part) for part in problem["loc"]).upper()
            name = str(problem.get("ctx", {}).get("variable", field))
            if name not in os.environ and f"{name}_FILE" in os.environ:
                name = f"{name}_FILE"
            # A URL holds a password: it is named, never shown.
            shown = "" if field.endswith("_URL") else f" = {os.environ.get(name)!r}"
            given = shown if name in os.environ else " is not set"
            sys.stderr.write(f"bad setting: {name}{given}: {problem['msg']}\n")
        sys.exit(EXIT_BAD_SETTINGS)
