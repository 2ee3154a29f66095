"""Turnstile: use cases of the real service on a real database, one statement at a time, in every order that matters.

:mod:`~tests.turnstile.gate` stops an actor in front of each statement, :mod:`~tests.turnstile.controller` lets one
pass, :mod:`~tests.turnstile.explorer` chooses which, until no order is left that differs from those tried.
:mod:`~tests.turnstile.footprints` knows which statements commute, :mod:`~tests.turnstile.oracle` what must hold after,
:mod:`~tests.turnstile.pairs` who meets whom.
"""
