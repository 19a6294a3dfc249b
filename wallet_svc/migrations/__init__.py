"""The schema of wallet_svc, step by step."""
