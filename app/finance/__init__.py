"""What the books need: how a period's credits came and went, in agreement with the ledger to the micro-credit."""
