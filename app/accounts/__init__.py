"""Users and what they have: balances, statements, grants. Reads never post; they compute what is due instead."""
