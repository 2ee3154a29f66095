"""The ports through which time, ids and randomness enter, so that a simulated world can supply its own."""
