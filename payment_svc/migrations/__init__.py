"""The migrations of payment_svc."""
