"""`python -m psp_stub`: runs the stub from its settings."""

from psp_stub.main import main

main()
