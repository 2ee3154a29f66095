"""Where a page of a list goes on: behind the last row of the page before, found by an index of the list's order."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, literal, tuple_

from app.core.units import Instant


def beyond(columns: Sequence[ColumnElement[Any]], last: Sequence[Any], *, down: bool) -> ColumnElement[bool]:
    """Rows behind ``last``, the values of ``columns`` by which the list is ordered; ``down``: the largest come first.

    As a comparison of whole rows, which an index takes as the place to begin at. Of the same written out with "or" it
    reads all rows from the list's beginning and drops them one by one.
    """
    here = tuple_(*columns)
    # A value of a tuple has no column to tell how it is stored.
    there = tuple_(*(literal(value, column.type) for column, value in zip(columns, last, strict=True)))
    return here < there if down else here > there


def end_unless_passed(end: Instant | None, last: Instant) -> Instant | None:
    """The exclusive ``end`` of a period where a page goes on behind ``last``, newest first; null if it says no more.

    Of two conditions on a column an index begins at one. Where that is the period's end, all pages before are read.
    """
    return None if end is None or last < end else end
