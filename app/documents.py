"""Strict documents from clients: what each kind of field accepts, and errors that point at the place.

Bodies are decoded with numbers as their digits (:mod:`app.core.lossless_json`) and validated here, so that no amount
passes through a float, no ``true`` counts as 1 and no number as a string. Errors of a document are reported together.
"""

import unicodedata
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.core.lossless_json import InvalidJson, JsonNumber, dumps, loads
from app.core.units import (
    Instant,
    InvalidQuantity,
    MicroCredits,
    Micros,
    millionths,
    parse_credits,
    parse_instant,
    parse_seconds,
)
from app.errors import INVALID_JSON, INVALID_REQUEST, FieldError, Problem

MAX_ERRORS = 50
"""A problem document lists at most so many errors."""

MAX_TEXT = 128
"""Ids, names and references are at most so long."""


class Document(BaseModel):
    """A JSON object from a client; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp"})
_TURNING: Final = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Characters that turn the text around them, so that an id reads as another one. (Joiners, as in emoji, may stay.)"""


NO_CONTROLS: Final = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069\\ue000-\\uf8ff]+$"
"""What a pattern can say of printable text; characters that are not assigned are refused as well."""


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{message}", {"message": message})


def _reader(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        try:
            return read(value)
        except InvalidQuantity as error:
            raise _refuse(str(error)) from None

    return validate


def _plain_text(value: Any) -> str:
    if type(value) is not str:
        raise InvalidQuantity("must be a string")
    return value


def printable(text: str, longest: int = MAX_TEXT) -> str:
    """``text`` if it has 1 to ``longest`` printable characters; else :class:`InvalidQuantity`."""
    if not 1 <= len(text) <= longest:
        raise InvalidQuantity(f"must have 1 to {longest} characters")
    if text.isascii() and text.isprintable():
        return text  # the usual case, on the way of every heartbeat
    if any(
        unicodedata.category(character) in _UNPRINTABLE or unicodedata.bidirectional(character) in _TURNING
        for character in text
    ):
        raise InvalidQuantity("must hold printable characters only")
    return text


def _number(value: Any) -> JsonNumber:
    if not isinstance(value, JsonNumber):
        raise InvalidQuantity("must be a JSON number")
    return value


def _duration(value: Any) -> Micros:
    number = _number(value).decimal()
    if number is None:
        raise InvalidQuantity("must be a finite number of seconds")
    return parse_seconds(number)


def _whole(value: Any) -> int:
    number = _number(value)
    digits = number.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        raise InvalidQuantity("must be a whole number")
    return int(number)


def _money_text(value: Any) -> str:
    if type(value) is not str:
        raise InvalidQuantity('must be a decimal string such as "12.5", not a JSON number')
    return value


def _not_negative(amount: int) -> int:
    if amount < 0:
        raise InvalidQuantity("must not be negative")
    return amount


def _positive(amount: int) -> int:
    if amount <= 0:
        raise InvalidQuantity("must be more than 0")
    return amount


def _not_zero(amount: int) -> int:
    if amount == 0:
        raise InvalidQuantity("must not be 0")
    return amount


def _at_most_one(factor: int) -> int:
    if factor > 1_000_000:
        raise InvalidQuantity("must be at most 1")
    return factor


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidQuantity("must be true or false")
    return value


_DECIMAL = r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,6})?"
_DECIMAL_SCHEMA = {"type": "string", "pattern": rf"^(-0(\.0{{1,6}})?|{_DECIMAL})$", "examples": ["12.5"]}
_SIGNED_SCHEMA = {"type": "string", "pattern": f"^-?{_DECIMAL}$", "examples": ["12.5"]}

Credits = Annotated[
    MicroCredits,
    PlainValidator(_reader(lambda v: MicroCredits(_not_negative(parse_credits(_money_text(v)))))),
    WithJsonSchema(_DECIMAL_SCHEMA),
]
"""An amount of credits ≥ 0, as a decimal string."""

PositiveCredits = Annotated[
    MicroCredits,
    PlainValidator(_reader(lambda v: MicroCredits(_positive(parse_credits(_money_text(v)))))),
    WithJsonSchema(_DECIMAL_SCHEMA),
]

SignedCredits = Annotated[
    MicroCredits,
    PlainValidator(_reader(lambda v: MicroCredits(_not_zero(parse_credits(_money_text(v)))))),
    WithJsonSchema(_SIGNED_SCHEMA),
]
"""An amount of credits other than 0, as a decimal string."""

Factor = Annotated[
    int,
    PlainValidator(_reader(lambda v: _at_most_one(_not_negative(millionths(_money_text(v)))))),
    WithJsonSchema(_DECIMAL_SCHEMA),
]
"""A factor from 0 to 1 in millionths, as a decimal string."""

_SECONDS_SCHEMA = {"type": "number", "minimum": 0, "exclusiveMaximum": 10**9, "examples": [30]}
Duration = Annotated[Micros, PlainValidator(_reader(_duration)), WithJsonSchema(_SECONDS_SCHEMA)]
"""A duration in seconds, exact to the microsecond, as a JSON number."""

WholeNumber = Annotated[
    int,
    PlainValidator(_reader(lambda v: _not_negative(_whole(v)))),
    WithJsonSchema({"type": "integer", "minimum": 0}),
]

Moment = Annotated[
    Instant,
    PlainValidator(_reader(lambda v: parse_instant(_plain_text(v)))),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An RFC 3339 instant."""

Text = Annotated[
    str,
    PlainValidator(_reader(lambda v: printable(_plain_text(v)))),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": NO_CONTROLS}),
]
"""Printable text of 1 to 128 characters."""

MAX_REASON = 500
"""Characters of a reason."""


def _reason(value: Any) -> str:
    text = printable(_plain_text(value), MAX_REASON)
    if not text.strip():
        raise InvalidQuantity("must say something")
    return text


Reason = Annotated[
    str,
    PlainValidator(_reader(_reason)),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_REASON, "pattern": NO_CONTROLS}),
]
"""Why a person corrects something: printable text of 1 to 500 characters, kept for ever."""

MAX_METADATA = 8_192
"""Characters of a metadata object as compact JSON."""


def _metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidQuantity("must be a JSON object")
    for text in _texts(value):
        if isinstance(text, JsonNumber):
            if not _ordinary(text):
                raise InvalidQuantity("must hold ordinary numbers only")
        elif "\x00" in text or any(unicodedata.category(character) == "Cs" for character in text):
            raise InvalidQuantity("must hold no NUL and no half characters")
    if len(dumps(value)) > MAX_METADATA:
        raise InvalidQuantity(f"must have at most {MAX_METADATA} characters as JSON")
    return value


_MAX_METADATA_NUMBER = 100


def _ordinary(number: JsonNumber) -> bool:
    """Whether the database can keep the number with all its digits."""
    value = number.decimal()
    return value is not None and max(len(number), abs(value.adjusted())) <= _MAX_METADATA_NUMBER


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


Metadata = Annotated[
    dict[str, Any], PlainValidator(_reader(_metadata)), WithJsonSchema({"type": "object", "additionalProperties": True})
]
"""The client's own data: any JSON object, given back with every digit (``1e5`` as ``100000``)."""

Flag = Annotated[bool, PlainValidator(_reader(_boolean)), WithJsonSchema({"type": "boolean"})]

PlainString = BeforeValidator(_reader(_plain_text))
"""Before an enum: a JSON number's digits are no member's name."""

AnyDocument = TypeVar("AnyDocument", bound=Document)


def decode(body: bytes) -> object:
    """Decode a body; a 422 ``invalid-json`` :class:`~app.errors.Problem` if it is not JSON in UTF-8.

    A name that stands twice in one object is refused: which of two amounts is meant, only the client knows.
    """
    try:
        return loads(body.decode("utf-8"), unique_names=True)
    except (InvalidJson, UnicodeDecodeError) as error:
        detail = str(error) if isinstance(error, InvalidJson) else "not UTF-8"
        raise Problem(INVALID_JSON, detail, errors=[FieldError("", detail)]) from None


def validate(kind: type[AnyDocument], value: object, pointer: str = "") -> AnyDocument:
    """Validate a decoded ``value`` as a document; a 422 :class:`~app.errors.Problem` with all errors if it is none."""
    if not isinstance(value, dict):
        raise Problem(INVALID_REQUEST, "must be a JSON object", errors=[FieldError(pointer, "must be a JSON object")])
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise Problem(
            INVALID_REQUEST,
            "the body does not have the form that this call takes",
            errors=[
                FieldError(pointer + pointer_to(item["loc"]), _message(item["type"], item["msg"], item.get("ctx", {})))
                for item in error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
            ],
        ) from None


def pointer_to(location: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901), safe to give back whatever names the client made up."""
    return "".join("/" + _shown(str(part)).replace("~", "~0").replace("/", "~1") for part in location)


def _shown(name: str) -> str:
    """A field name of the client's own making, safe to give back: bounded, without control or half characters."""
    odd = {"Cc", "Cf", "Cs"}
    return "".join(c if unicodedata.category(c) not in odd else "�" for c in name[:MAX_TEXT])


_MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this document",
    "enum": "must be {expected}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a JSON array",
    "model_type": "must be a JSON object",
}


def _message(kind: str, message: str, context: dict[str, Any]) -> str:
    """Our own words for what the library finds; what is refused by us has its words already."""
    return _MESSAGES.get(kind, message.replace("{", "{{").replace("}", "}}")).format(**context)
