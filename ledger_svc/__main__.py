"""`python -m ledger_svc`: runs the service from its settings."""

from ledger_svc.main import main

main()
