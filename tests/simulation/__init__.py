"""A simulated world around the real application: one thread, virtual time, and everything again from a seed."""
