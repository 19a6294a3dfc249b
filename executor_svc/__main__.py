"""`python -m executor_svc`: runs the executor from its settings."""

from executor_svc.main import main

main()
