"""Pulled timelines as they are stored: append-only, digit for digit, each once."""
