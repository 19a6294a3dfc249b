"""Tier A: every fault at every commit and call of a whole mesh in one process.

Real gRPC on loopback, real PostgreSQL in memory, ids made anew for each scenario, and waits of
milliseconds by the services' own settings. See docs/faults.md.
"""
