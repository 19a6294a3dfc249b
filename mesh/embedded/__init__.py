"""A real PostgreSQL as the default database: found, made, started and stopped by ourselves."""

from mesh.embedded.errors import EmbeddedPostgresError, EmbeddedPostgresReason
from mesh.embedded.folder import DataDirChoice, default_data_dir
from mesh.embedded.launcher import EmbeddedConfig, EmbeddedPostgres

__all__ = [
    "DataDirChoice",
    "EmbeddedConfig",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "EmbeddedPostgresReason",
    "default_data_dir",
]
