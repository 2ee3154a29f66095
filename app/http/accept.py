"""Which form of an answer a client wants (RFC 9110, 12.5.1)."""

import re
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request

JSON: Final = "application/json"
CSV: Final = "text/csv"
SVG: Final = "image/svg+xml"
EVENT_STREAM: Final = "text/event-stream"
VARY: Final = {"Vary": "Accept"}
"""Goes with every answer whose form depends on what was asked for."""

_MAX_RANGES: Final = 50
_QUALITY: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)


def wants_csv(request: Request) -> bool:
    """Whether the client would rather have CSV than JSON."""
    return preferred(request.headers.getlist("accept"), (JSON, CSV)) == CSV


def wants_svg(request: Request) -> bool:
    """Whether the client would rather have a picture than JSON."""
    return preferred(request.headers.getlist("accept"), (JSON, SVG)) == SVG


def wants_events(request: Request) -> bool:
    """Whether the client would rather be told what changes, as it changes, than once."""
    return preferred(request.headers.getlist("accept"), (JSON, EVENT_STREAM)) == EVENT_STREAM


def preferred(headers: Iterable[str], offered: tuple[str, ...]) -> str:
    """The one of ``offered`` with the highest quality; of equals the one that is named more exactly, then the first.

    The first as well where the client accepts none of them: an answer in another form is better than none.
    """
    ranges = [_range(text) for text in ",".join(headers).split(",")[:_MAX_RANGES] if text.strip()]
    if not ranges:
        return offered[0]

    def rank(kind: str) -> tuple[int, int]:
        fitting = [(exactness, quality) for name, quality in ranges if (exactness := _exactness(name, kind))]
        if not fitting:
            return 0, 0
        exactness, quality = max(fitting)
        return quality, exactness if quality else 0

    return max(offered, key=rank)


def _range(text: str) -> tuple[str, int]:
    """A media range and its quality in thousandths; one with a broken quality counts as not accepted."""
    name, *parameters = (part.strip() for part in text.split(";"))
    quality = 1000
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            found = _QUALITY.fullmatch(value.strip())
            quality = 0 if found is None else int((value.strip().replace(".", "") + "000")[:4])
            break
    return name.lower(), quality


def _exactness(name: str, kind: str) -> int:
    """How exactly a media range names ``kind``: 0 not at all, 1 ``*/*``, 2 ``text/*``, 3 by its name."""
    main, _, _ = kind.partition("/")
    return {"*/*": 1, f"{main}/*": 2, kind: 3}.get(name, 0)
