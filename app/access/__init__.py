"""Who may come in: API keys, user tokens (our own and those of the customer's issuer), and the audit log's reading.

Invariants: a key or token is stored by its hash or not at all; a key is looked up at every call, so that a revoked one
is refused at once by every replica; what cannot be checked is refused.
"""
