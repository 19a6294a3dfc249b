"""Double-entry journals that are only ever added to."""
