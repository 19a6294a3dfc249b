"""The reference PSP adapter, with scripted behaviours."""
