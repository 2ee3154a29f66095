"""Payments that a provider of payments tells of: what was paid becomes a grant, what goes back is taken back."""
