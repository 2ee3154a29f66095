"""The pure core: no clock, no I/O, no logging, no randomness, no float.

Plain functions over frozen values. Time, ids and evidence come in as arguments; decisions leave as values.
"""
