"""Benchmarks: ratios of both sides in one run on one machine. ``make bench`` runs them and writes the page."""
