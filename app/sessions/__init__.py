"""Sessions: their rows and steps, and the start.

The hold and the attempt are committed before the provider is called, so that whatever happens after, a running session
is known and paid for. Locks are taken account first, then session.
"""
