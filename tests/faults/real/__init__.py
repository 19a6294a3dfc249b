"""Tier B: real processes are killed or stopped at named moments: `python -m tests.faults.real`."""
