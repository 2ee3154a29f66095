"""Events told to others: endpoints, the way from the outbox to each of them, and what came of it.

Deliveries are Standard Webhooks. Each event reaches each endpoint that wants it at least once, under the same id every
time; the order is told (``sequence``), not kept.
"""
