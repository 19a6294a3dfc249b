"""The wrapper for commits and reads, on a real PostgreSQL."""
