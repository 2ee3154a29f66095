"""Reading bodies: bounded while they stream, decoded with all digits, validated strictly."""

import json
import re
from functools import cache
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote

from fastapi import Path
from pydantic import AfterValidator
from starlette.requests import ClientDisconnect, Request

from app.core.units import Instant, InvalidQuantity, parse_instant
from app.documents import MAX_TEXT, Document, printable
from app.errors import BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, Problem, invalid

MAX_BODY: Final = 1 << 20
"""Bytes of an ordinary request body."""

MAX_PREVIEW_BODY: Final = 8 << 20
"""Bytes of a preview's body, which may hold whole timelines."""


_JSON_TYPE: Final = re.compile(r"application/(json|[a-z0-9!#$&^_.+-]+\+json|x-www-form-urlencoded)", re.IGNORECASE)
"""The type of a form is what widespread clients claim of any body unless they are told otherwise."""


class BodyKind(NamedTuple):
    """Which types of bodies a call takes, and what it says to others."""

    types: re.Pattern[str]
    advice: str


JSON_BODY: Final = BodyKind(_JSON_TYPE, "send JSON, with the header Content-Type: application/json")
CSV_BODY: Final = BodyKind(
    re.compile(r"text/csv|application/x-www-form-urlencoded", re.IGNORECASE),
    "send CSV, with the header Content-Type: text/csv",
)


def _check_type(request: Request, types: BodyKind) -> None:
    """415 for a body that is said to be something else. One whose type is not told is taken for what it must be."""
    told = request.headers.get("content-type", "").partition(";")[0].strip()
    if told and not types.types.fullmatch(told):
        raise Problem(UNSUPPORTED_MEDIA_TYPE, types.advice)


async def read_bounded(request: Request, limit: int = MAX_BODY, *, types: BodyKind = JSON_BODY) -> bytes:
    """The body, refused with 413 as soon as it exceeds ``limit`` bytes, or claims to; 415 if it is of another type."""
    _check_type(request, types)
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and len(claimed) < _MOST_DIGITS and int(claimed) > limit:
        raise _too_large(limit)
    size = 0
    # What is larger than an ordinary body waits in a file: a body that is refused in the end must cost no memory.
    with SpooledTemporaryFile(max_size=MAX_BODY) as kept:
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                kept.write(chunk)
        except ClientDisconnect:
            raise invalid("", "the connection was closed before the body was whole") from None
        kept.seek(0)
        return kept.read()


_MOST_DIGITS: Final = 20


def _too_large(limit: int) -> Problem:
    return Problem(BODY_TOO_LARGE, f"at most {limit} bytes are taken here", headers={"Connection": "close"})


def takes(kind: type[Document]) -> dict[str, Any]:
    """What the generated API document says about the body of a call that takes a document of ``kind``."""
    # Read anew each time: the framework may write into what it is given.
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": json.loads(_schema(kind))}}}}


@cache
def _schema(kind: type[Document]) -> str:
    schema = kind.model_json_schema()
    return json.dumps(_inline(schema, schema.pop("$defs", {})))


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with its own definitions in place: references would be taken from the whole API document's root."""
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if reference is not None:
        named = definitions[reference.rpartition("/")[2]]
        return _inline({**named, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    return {key: _inline(value, definitions) for key, value in schema.items()}


def checked_user_id(user_id: str) -> str:
    """A user id from a path or query; 422 if no user can have it."""
    try:
        return printable(user_id)
    except InvalidQuantity as error:
        raise invalid("/user_id", str(error)) from None


def instant_parameter(name: str, text: str | None) -> Instant | None:
    """An instant in a query; 422 if it is none. A ``+`` that arrived as a space is taken for what it was."""
    if text is None:
        return None
    try:
        return parse_instant(text.replace(" ", "+"))
    except InvalidQuantity as error:
        raise invalid(f"/{name}", str(error)) from None


UserIdPath = Annotated[
    str,
    Path(description=f"The customer's own id of the user, at most {MAX_TEXT} characters, percent-encoded."),
    AfterValidator(unquote),
]
"""Paths are matched as they are encoded: see ``_segmented`` in :mod:`app.http.front`."""
