"""The only service that moves money at the PSP."""
