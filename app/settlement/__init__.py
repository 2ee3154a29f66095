"""From a due session to one posted charge: lease it, pull, decide, post.

A lease lets any number of replicas share the work; its token is checked again inside the transaction that writes, so a
worker that wakes up after its lease writes nothing.
"""
