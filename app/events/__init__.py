"""The outbox: what happened, written in the transaction in which it happened.

An event exists exactly if its cause was committed. Events of one account are numbered without a gap.
"""
