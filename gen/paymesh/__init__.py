"""Generated from protos/ by tools/gen.py: never edited by hand."""
