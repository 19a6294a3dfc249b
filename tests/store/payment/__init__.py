"""payment_svc on a real PostgreSQL."""
