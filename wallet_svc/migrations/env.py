"""Alembic's entry point."""

from mesh.migrations import run_env

run_env()
