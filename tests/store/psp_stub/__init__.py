"""The stub's tables and transactions on a real PostgreSQL."""
