"""The simulated provider: a real HTTP server that behaves, and misbehaves, like Gabber (``docs/provider.md``).

It ships with the product because integrators develop against it. It knows nothing of Talktime but what Gabber knows.
"""
