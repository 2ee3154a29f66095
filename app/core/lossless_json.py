"""JSON in which every number keeps its digits.

Binary floats lose digits of durations; Python's own decoder makes floats, and ``Decimal`` alone loses ``1.50`` on the
way out. Here a number is its own text: :class:`JsonNumber`. Used for what the provider sends, which must be rated
exactly and shown again digit for digit.
"""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring_ascii
from typing import Final

MAX_DEPTH: Final = 64
"""Arrays and objects nested deeper are refused."""


_NO_JSON: Final = ("NaN", "Infinity", "-Infinity")


class JsonNumber(str):
    """The digits of a JSON number, or ``NaN``, ``Infinity``, ``-Infinity``, which lenient decoders let pass."""

    __slots__ = ()

    def decimal(self) -> Decimal | None:
        """The exact value; ``None`` if it is not finite or its exponent is beyond any use."""
        try:
            value = Decimal(self)
        except InvalidOperation:
            return None
        return value if value.is_finite() else None


class InvalidJson(ValueError):
    """The text is not JSON, or nests deeper than :data:`MAX_DEPTH`. The message holds nothing of the text."""


def loads(text: bytes | str, *, unique_names: bool = False, strict: bool = False) -> object:
    """Decode JSON; numbers become :class:`JsonNumber`. Raises :class:`InvalidJson`.

    Of a name that stands twice in an object the last value counts, unless ``unique_names`` are asked for. ``NaN`` and
    its like, which are no JSON, pass unless it is ``strict``.
    """
    try:
        value = json.loads(
            text,
            parse_int=JsonNumber,
            parse_float=JsonNumber,
            parse_constant=_refuse_constant if strict else JsonNumber,
            object_pairs_hook=_unique if unique_names else None,
        )
    except RecursionError:
        raise InvalidJson("nested too deeply") from None
    except InvalidJson:
        raise
    except ValueError:
        raise InvalidJson("not valid JSON") from None
    if _depth(value) > MAX_DEPTH:
        raise InvalidJson("nested too deeply")
    return value


def dumps(value: object, *, strict: bool = False) -> str:
    """Encode what :func:`loads` gave, compactly, each number digit for digit.

    ``NaN`` and its like stay as they are, or become strings if it is ``strict``: then all of it is JSON.
    """
    return "".join(_tokens(value, strict))


def with_texts(value: object, change: Callable[[str], str]) -> object:
    """The value with each text in it, names of members too, as ``change`` makes it; numbers stay as they are."""
    match value:
        case JsonNumber():
            return value
        case str():
            return change(value)
        case list() | tuple():
            return [with_texts(item, change) for item in value]
        case dict():
            return {change(name): with_texts(item, change) for name, item in value.items()}
        case _:
            return value


def plain_json(text: str) -> str:
    """What :func:`dumps` gave as JSON for everybody: ``NaN`` and its like become strings, all else stays."""
    return dumps(loads(text), strict=True) if any(name in text for name in _NO_JSON) else text


def _refuse_constant(_name: str) -> object:
    raise InvalidJson("NaN and Infinity are not JSON")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJson("a name stands twice in one object")
    return found


def _depth(value: object) -> int:
    deepest = 0
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict):
            children = list(item.values())
        elif isinstance(item, list):
            children = item
        else:
            continue
        deepest = max(deepest, depth)
        waiting.extend((child, depth + 1) for child in children)
    return deepest


def _tokens(value: object, strict: bool) -> Iterator[str]:
    match value:
        case JsonNumber():
            yield f'"{value}"' if strict and value in _NO_JSON else str(value)
        case str():
            yield encode_basestring_ascii(value)
        case dict():
            yield "{"
            for position, (key, item) in enumerate(value.items()):
                yield ("," if position else "") + encode_basestring_ascii(str(key)) + ":"
                yield from _tokens(item, strict)
            yield "}"
        case list() | tuple():
            yield "["
            for position, item in enumerate(value):
                if position:
                    yield ","
                yield from _tokens(item, strict)
            yield "]"
        case None:
            yield "null"
        case bool():
            yield "true" if value else "false"
        case int():
            yield str(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no lossless JSON form")
