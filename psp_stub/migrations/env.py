"""Run by Alembic for each migration run."""

from mesh.migrations import run_env

run_env()
