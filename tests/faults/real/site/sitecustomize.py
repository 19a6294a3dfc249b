"""Python runs this at the start of each process that finds it: those of a mesh under test."""

from tests.faults.real import inside

inside.install()
