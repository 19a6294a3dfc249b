"""wallet_svc on a real PostgreSQL."""
