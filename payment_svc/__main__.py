"""`python -m payment_svc` runs the service from its settings."""

from payment_svc.main import main

main()
