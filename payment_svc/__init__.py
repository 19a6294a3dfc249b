"""The orchestrator: accepts payments and drives every order to rest."""
