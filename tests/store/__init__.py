"""Tests that need a PostgreSQL."""
