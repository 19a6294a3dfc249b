"""The executor's table and transactions on a real PostgreSQL."""
