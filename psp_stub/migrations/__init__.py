"""The schema of the stub's database."""
