"""Connections cut at COMMIT, before and after it takes effect, at every write of the money path."""
