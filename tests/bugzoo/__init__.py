"""Planted bugs: each a defect that a competent developer could commit, and the layer of tests that finds it.

A bug is a patch of the product's source that is applied while the patched modules are imported, in a process of its
own; nothing is written to ``app/``. A layer that finds none of them proves nothing.
"""
