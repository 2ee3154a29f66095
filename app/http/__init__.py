"""What every HTTP call shares: bodies in, JSON and problems out, keys, pages, idempotency. It knows no capability."""
