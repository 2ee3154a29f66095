"""Live balance: what a user has and what the user's sessions do, told as it changes, by server-sent events."""
