"""Alembic's entry; everything is in mesh.migrations."""

from mesh.migrations import run_env

run_env()
