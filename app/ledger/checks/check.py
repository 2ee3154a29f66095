"""What a check is."""

from typing import NamedTuple


class Check(NamedTuple):
    """``promise``: what holds if ``sql`` finds nothing."""

    name: str
    promise: str
    sql: str
