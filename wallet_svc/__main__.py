"""`python -m wallet_svc`: runs the service from its settings."""

from wallet_svc.main import main

main()
