"""The schema of ledger_svc, step by step."""
