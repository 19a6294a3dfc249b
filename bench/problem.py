"""Why there is no measurement."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark could not go on; the message is for people."""
