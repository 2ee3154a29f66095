"""What-if: what the settled sessions of a period would have cost by another rate card, from their stored evidence.

It only reads what it prices. docs/what-if.md says what is compared with what.
"""
