"""The hot path: a heartbeat becomes a durable tick before it is acknowledged.

A 204 means that the tick survives the death of every process the next instant. Nothing else is promised, and nothing is
answered before that.
"""
