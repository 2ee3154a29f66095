"""CSV (RFC 4180) in pieces: rows are written as they are read, and texts from people start no formula."""

import re
import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

from starlette.responses import StreamingResponse

from app.http.accept import VARY

_SPECIAL: Final = re.compile(r'[",;\t\r\n]|^\s|\s$')
_STARTS_FORMULA: Final = frozenset("=+-@\N{MINUS SIGN}")
_STARTS_RAW: Final = ("\t", "\r", "\n")
_UNSAFE_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_NAME: Final = 64


class Told(str):
    """A text that a person wrote. It is always quoted, and one that a spreadsheet could take for a formula gets an
    apostrophe in front."""

    __slots__ = ()


Cell = str | int | None
"""A null is an empty cell."""


def csv_lines(rows: Iterable[Sequence[Cell]]) -> str:
    """``rows`` as CSV, each with its line end."""
    return "".join(",".join(map(_cell, row)) + "\r\n" for row in rows)


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, Told):
        return _quoted(formula_safe(value))
    text = str(value)
    return _quoted(text) if _SPECIAL.search(text) else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def formula_safe(text: str) -> str:
    """``text``, with an apostrophe in front if a spreadsheet could take it for a formula.

    That is one that begins with ``=``, ``+``, ``-``, ``@`` in any width, also after what is not seen, or with a tab or
    line end.
    """
    seen = next((character for character in text if not _is_unseen(character)), "")
    formula = unicodedata.normalize("NFKC", seen)[:1] in _STARTS_FORMULA
    return "'" + text if formula or text.startswith(_STARTS_RAW) else text


def _is_unseen(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


async def csv_response(
    name: str, header: Sequence[str], pages: AsyncIterator[Sequence[Sequence[Cell]]]
) -> StreamingResponse:
    """Stream ``pages`` of rows under ``header``, to be kept as ``name``.csv.

    The first page is read before the answer begins, so that what is wrong with the request can still be said. What
    breaks later cuts the answer off, which a client sees as an incomplete one.
    """
    first = await anext(pages, ())

    async def lines() -> AsyncIterator[str]:
        yield csv_lines([header, *first])
        async for page in pages:
            yield csv_lines(page)

    return StreamingResponse(lines(), headers=csv_headers(name), media_type="text/csv; charset=utf-8")


def csv_headers(name: str) -> Mapping[str, str]:
    """The headers of CSV that is kept under ``name``, of which only harmless characters stay."""
    safe = _UNSAFE_NAME.sub("_", name).strip("_")[:_MAX_NAME] or "talktime"
    return {"Content-Disposition": f'attachment; filename="{safe}.csv"', **VARY}
