"""Measures a whole mesh beside pgbench on the same PostgreSQL: `make bench`."""
