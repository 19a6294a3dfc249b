"""ledger_svc on a real PostgreSQL."""
