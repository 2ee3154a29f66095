"""Rate cards and what they make of a timeline: documents, preview, explanation.

A rate-card version is immutable, and so is the version a session started with: a new price never changes an old charge.
"""
