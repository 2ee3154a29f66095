"""How a capability says what its calls take and answer: JSON Schema (2020-12) in small words, and one record a call.

Every folder with routes has a ``schemas.py`` of these, the only place where its answers are described. The API
document is made of them (:mod:`app.http.api_document`), a service with a call that is not described does not start,
and the tests hold every answer that they get against its description.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from app.documents import NO_CONTROLS
from app.errors import Code
from app.http.csv_answers import csv_lines

Schema = dict[str, Any]

JSON: Final = "application/json"
CSV: Final = "text/csv"
PROBLEM_JSON: Final = "application/problem+json"
BINARY: Final = "application/octet-stream"


def described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def text(example: str, description: str = "", *, longest: int | None = None) -> Schema:
    schema: Schema = {"type": "string", "examples": [example]}
    if longest is not None:
        schema |= {"minLength": 1, "maxLength": longest}
    return described(schema, description) if description else schema


def public_id(kind: str, description: str = "") -> Schema:
    """An id with its kind in front; those that carry their account have 52 characters, the others 26."""
    length = 26 if kind in {"rc", "key", "sim", "ep", "pay"} else 52
    schema = {"type": "string", "pattern": f"^{kind}_[0-9a-z]{{{length}}}$", "examples": [f"{kind}_{'0' * length}"]}
    return described(schema, description) if description else schema


def amount(description: str, example: str = "12.5", *, decimals: int = 6) -> Schema:
    """Credits as a decimal string, of either sign."""
    pattern = rf"^-?[0-9]+(\.[0-9]{{1,{decimals}}})?$"
    return {"type": "string", "pattern": pattern, "examples": [example], "description": description}


def instant(description: str) -> Schema:
    return {
        "type": "string",
        "format": "date-time",
        "examples": ["2026-01-31T12:00:00.500000Z"],
        "description": description,
    }


def duration(description: str, example: float = 60) -> Schema:
    return {"type": "number", "examples": [example], "description": f"{description} Seconds."}


def whole(description: str, example: int = 1, *, least: int = 0) -> Schema:
    return {"type": "integer", "minimum": least, "examples": [example], "description": description}


def flag(description: str) -> Schema:
    return {"type": "boolean", "examples": [False], "description": description}


def one_of(values: type[StrEnum] | Iterable[str], description: str = "") -> Schema:
    schema: Schema = {"type": "string", "enum": [str(value) for value in values]}
    return described(schema, description) if description else schema


def listed(item: Schema, description: str = "") -> Schema:
    schema: Schema = {"type": "array", "items": item}
    return described(schema, description) if description else schema


def or_null(schema: Schema) -> Schema:
    """The schema, or null. A description moves outwards, where readers look for it."""
    inner = {name: value for name, value in schema.items() if name != "description"}
    outer: Schema = {"anyOf": [inner, {"type": "null"}]}
    return outer | ({"description": schema["description"]} if "description" in schema else {})


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def record(
    properties: Mapping[str, Schema], *, optional: Sequence[str] = (), description: str = "", open_to_more: bool = False
) -> Schema:
    """An object with just these members; all are there but the ``optional`` ones."""
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": open_to_more,
    }
    return described(schema, description) if description else schema


def any_object(description: str) -> Schema:
    return {"type": "object", "additionalProperties": True, "examples": [{}], "description": description}


def page_of(name: str) -> Schema:
    """A page of a list."""
    more = text("WzJd", "To be given as `cursor` for the next page; null on the last one.")
    return record({"data": listed(ref(name)), "next_cursor": or_null(more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of a call that went well: a schema by media type; none: it has no body."""

    description: str
    content: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By the id of an operation: where its parameters stand in this answer."""


def replies(description: str, schema: Schema, **other: Schema) -> Reply:
    """A JSON answer. ``csv``: as CSV as well; ``svg``: as a picture as well."""
    content = {JSON: schema} | {kind: other[name] for name, kind in _OTHER_FORMS.items() if name in other}
    return Reply(description=description, content=content)


_OTHER_FORMS: Final = {"csv": CSV, "svg": "image/svg+xml"}


def csv_of(header: Sequence[str], row: Mapping[str, str]) -> Schema:
    """A table as CSV, shown by one row; what the row does not have is empty."""
    example = csv_lines([header, [row.get(name) for name in header]])
    return {"type": "string", "description": "RFC 4180, UTF-8, with a header line.", "examples": [example]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A call: what it answers by status, and the problems of its own besides those that every call may answer.

    ``parameters``: schemas of those in path and query, all of which must be here. ``idempotent``: takes
    ``Idempotency-Key``, with the problems that come of it. ``open``: needs no key. ``example``: of the body, where its
    required fields alone are none. ``summary``, ``tags`` and ``body`` are for calls that are no routes of the
    framework, which tells them otherwise; ``only_problems`` for those that answer few of what every call may answer.
    """

    description: str
    answers: Mapping[int, Reply]
    problems: Sequence[Code] = ()
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    idempotent: bool = False
    open: bool = False
    example: Any = None
    summary: str = ""
    tags: Sequence[str] = ()
    body: Schema | None = None
    only_problems: Sequence[Code] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What one capability has to say: its calls as ``METHOD /path``, and the schemas that they name."""

    operations: Mapping[str, Operation]
    schemas: Mapping[str, Schema] = field(default_factory=dict)


LIMIT: Final[Schema] = {
    "type": "integer",
    "minimum": 1,
    "maximum": 500,
    "default": 50,
    "examples": [50],
    "description": "Rows of a page.",
}
CURSOR: Final = text("WzJd", "The `next_cursor` of the page before; the other parameters as they were then.")
PAGED: Final[Mapping[str, Schema]] = {"limit": LIMIT, "cursor": CURSOR}
USER_ID: Final = {
    **text("ada", "Your own id of the user, percent-encoded, `/` as `%2F`.", longest=128),
    "pattern": NO_CONTROLS,
}
