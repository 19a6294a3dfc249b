"""A mesh of real processes under load and faults for minutes, then a night: `make soak`."""
