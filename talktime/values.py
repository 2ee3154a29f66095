"""Values as Python has them, and as they stand in JSON: nothing is ever a binary fraction on the way.

Credits are :class:`~decimal.Decimal` and a decimal string on the wire; durations are :class:`~decimal.Decimal` seconds
and a JSON number; instants are aware :class:`~datetime.datetime`, in UTC in answers.
"""

import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from keyword import iskeyword
from math import isfinite
from typing import Annotated, Any, Final, NoReturn, Union, get_args, get_origin, get_type_hints, is_typeddict


class Unset(Enum):
    """The type of :data:`UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""An argument that is not sent. What a call changes then stays as it is, where ``None`` takes it away."""


class _Form(Enum):
    CREDITS = "credits"
    SECONDS = "seconds"


Credits = Annotated[Decimal | int | str, _Form.CREDITS]
"""An amount of credits to be sent: at most 6 decimals. A ``float`` is refused, since few amounts are one."""

Seconds = Annotated[Decimal | int, _Form.SECONDS]
"""A duration to be sent, in seconds: at most 6 decimals. A ``float`` is refused."""


_MOST_DIGITS: Final = 100
"""Before and behind the point; without a bound 1E+999999999 would be a gigabyte of zeros."""


class Misfit(Exception):
    """A document is not of the form that is expected; says where."""


def as_credits(value: Credits) -> str:
    """``value`` as a decimal string without an exponent; digits are kept.

    Raises ``TypeError`` for what is no amount (a ``float``, a ``bool``), ``ValueError`` for what is not finite.
    """
    if isinstance(value, str):
        return value
    return _digits(value, "credits")


def as_seconds(value: Seconds) -> Decimal:
    """``value`` as an exact number. Raises as :func:`as_credits` does."""
    return Decimal(_digits(value, "seconds"))


def _digits(value: Decimal | int, what: str) -> str:
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise TypeError(f"{what} are exact: give a Decimal or an int, not {type(value).__name__}")
    if not isinstance(value, Decimal):
        return str(value)
    if not value.is_finite():
        raise ValueError(f"{what} are finite, not {value}")
    if value and not -_MOST_DIGITS < value.adjusted() < _MOST_DIGITS:
        raise ValueError(f"{what} have fewer digits than {value}")
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_instant(value: datetime) -> str:
    """``value`` in UTC (RFC 3339). Raises ``ValueError`` for one without a time zone: it is no instant."""
    if not isinstance(value, datetime):
        raise TypeError(f"an instant is a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError("an instant needs a time zone, such as datetime.UTC")
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def written(hint: Any, value: Any) -> Any:
    """``value``, which is of the type ``hint``, as it goes into JSON: typed dictionaries, sequences, what they hold."""
    if value is None or value is UNSET:
        return value
    return _writer(hint)(value)


@cache
def _writer(hint: Any) -> Callable[[Any], Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        return {_Form.CREDITS: as_credits, _Form.SECONDS: as_seconds}[get_args(hint)[1]]
    if hint is datetime:
        return as_instant
    if origin in {Union, types.UnionType}:
        return _writer_of_either([one for one in get_args(hint) if one is not type(None)])
    if is_typeddict(hint):
        members = get_type_hints(hint, include_extras=True)
        return lambda value: {name: written(_bare(members.get(name, Any)), one) for name, one in value.items()}
    if origin is Sequence:
        (item,) = get_args(hint)
        return lambda value: [written(item, one) for one in value]
    return lambda value: value


def _bare(hint: Any) -> Any:
    """Without what says only whether a member has to be there."""
    named = getattr(get_origin(hint), "__name__", getattr(get_origin(hint), "_name", ""))
    return get_args(hint)[0] if named in {"NotRequired", "Required"} else hint


def _writer_of_either(options: Sequence[Any]) -> Callable[[Any], Any]:
    """A text stays one; anything else is of the one option that is none."""
    other = [one for one in options if one is not str]
    return lambda value: value if isinstance(value, str) and str in options else written(other[0], value)


# JSON


def json_bytes(document: Any) -> bytes:
    """``document`` as JSON in UTF-8, with the digits of its decimals.

    Raises ``TypeError`` for what JSON cannot hold, ``ValueError`` for numbers that are none in JSON.
    """
    return "".join(_pieces(document)).encode("utf-8")


def _pieces(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, bool | str):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, int | float | Decimal):
        yield _number(value)
    elif isinstance(value, datetime):
        yield json.dumps(as_instant(value))
    elif isinstance(value, Mapping):
        yield "{"
        for number, (name, one) in enumerate(value.items()):
            if not isinstance(name, str):
                raise TypeError(f"a JSON object has texts for names, not {type(name).__name__}")
            yield ("," if number else "") + json.dumps(name, ensure_ascii=False) + ":"
            yield from _pieces(one)
        yield "}"
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        yield "["
        for number, one in enumerate(value):
            yield "," if number else ""
            yield from _pieces(one)
        yield "]"
    else:
        raise TypeError(f"{type(value).__name__} has no form in JSON")


def _number(value: float | Decimal) -> str:
    finite = value.is_finite() if isinstance(value, Decimal) else isfinite(value)
    if not finite:
        raise ValueError(f"{value} is no number in JSON")
    return str(value).lower() if isinstance(value, Decimal) else repr(value)


def parsed(body: bytes) -> Any:
    """The JSON document in ``body``; fractions are decimals with all their digits. Raises :class:`Misfit`."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Misfit(f"no JSON: {error}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


# Documents into frozen records


def read(hint: Any, value: Any) -> Any:
    """``value``, a part of a parsed document, as the type ``hint``. Members that the type does not have are left out.

    Raises :class:`Misfit`, which says where.
    """
    return _reader(hint)(value, "")


_Reader = Callable[[Any, str], Any]


@cache
def _reader(hint: Any) -> _Reader:
    if is_dataclass(get_origin(hint) or hint):
        return _record_reader(hint)
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple
    origin, of = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _reader_or_null(next(one for one in of if one is not type(None)))
    if origin is tuple:
        return _tuple_reader(of)
    if origin is Mapping:
        return _mapping_reader(_reader(of[1]))
    raise TypeError(f"{hint} is no type of an answer")


def _record_reader(kind: Any) -> _Reader:
    members: dict[str, tuple[str, Any, bool]] | None = None
    record = get_origin(kind) or kind

    def read_record(value: Any, where: str) -> Any:
        nonlocal members
        if members is None:
            members = dict(_members_of(kind))
        if not isinstance(value, dict):
            raise Misfit(f"{where or 'the document'} is no object")
        found = {}
        for name, (field, reader, required) in members.items():
            if name in value:
                found[field] = reader(value[name], f"{where}/{name}")
            elif required:
                raise Misfit(f"{where}/{name} is missing")
        return record(**found)

    return read_record


def _members_of(kind: Any) -> Iterator[tuple[str, tuple[str, _Reader, bool]]]:
    """By the name in JSON: the field, what reads it, whether it has to be there."""
    record, of = get_origin(kind) or kind, get_args(kind)
    hints = get_type_hints(record)
    for field in fields(record):
        plain, hint = field.name.rstrip("_"), hints[field.name]
        reader = _reader(hint[of] if of and getattr(hint, "__parameters__", ()) else hint)
        yield plain if iskeyword(plain) else field.name, (field.name, reader, field.default is MISSING)


def _reader_or_null(hint: Any) -> _Reader:
    inner = _reader(hint)
    return lambda value, where: None if value is None else inner(value, where)


def _tuple_reader(of: tuple[Any, ...]) -> _Reader:
    readers = None if of[-1] is Ellipsis else [_reader(one) for one in of]
    item = _reader(of[0])

    def read_tuple(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or (readers is not None and len(value) != len(readers)):
            raise Misfit(f"{where} is no list" + ("" if readers is None else f" of {len(readers)}"))
        each = readers or [item] * len(value)
        return tuple(reader(one, f"{where}/{at}") for at, (reader, one) in enumerate(zip(each, value, strict=True)))

    return read_tuple


def _mapping_reader(inner: _Reader) -> _Reader:
    def read_mapping(value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise Misfit(f"{where} is no object")
        return {name: inner(one, f"{where}/{name}") for name, one in value.items()}

    return read_mapping


def _exactly(kind: type, what: str) -> _Reader:
    def read_it(value: Any, where: str) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise Misfit(f"{where} is no {what}")
        return value

    return read_it


def _read_decimal(value: Any, where: str) -> Decimal:
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            found = Decimal(value)
        except ArithmeticError:
            found = Decimal("NaN")
        if found.is_finite():
            return found
    raise Misfit(f"{where} is no decimal number")


def _read_instant(value: Any, where: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Misfit(f"{where} is no instant") from None
    if found.utcoffset() is None:
        raise Misfit(f"{where} has no time zone")
    return found.astimezone(UTC)


_SIMPLE: Final[dict[Any, _Reader]] = {
    Any: lambda value, _: value,
    str: _exactly(str, "text"),
    bool: _exactly(bool, "truth value"),
    int: _exactly(int, "whole number"),
    Decimal: _read_decimal,
    datetime: _read_instant,
}
