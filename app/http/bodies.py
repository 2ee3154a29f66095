"""Reading bodies: bounded while they stream, decoded with all digits, validated strictly."""

from typing import Annotated, Final

from fastapi import Path
from starlette.requests import ClientDisconnect, Request

from app.core.units import Instant, InvalidQuantity, parse_instant
from app.documents import MAX_TEXT, AnyDocument, decode, printable, validate
from app.errors import BODY_TOO_LARGE, Problem, invalid

MAX_BODY: Final = 1 << 20
"""Bytes of an ordinary request body."""

MAX_PREVIEW_BODY: Final = 8 << 20
"""Bytes of a preview's body, which may hold whole timelines."""


async def read_bounded(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, refused with 413 as soon as it exceeds ``limit`` bytes, whatever length it claims."""
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise Problem(BODY_TOO_LARGE, f"at most {limit} bytes are taken here", headers={"Connection": "close"})
            chunks.append(chunk)
    except ClientDisconnect:
        raise invalid("", "the connection was closed before the body was whole") from None
    return b"".join(chunks)


async def read_document(request: Request, kind: type[AnyDocument]) -> AnyDocument:
    """The body as a document of ``kind``; an empty body counts as an empty object."""
    body = await read_bounded(request)
    return validate(kind, decode(body) if body else {})


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


UserIdPath = Annotated[str, Path(description=f"The customer's own id of the user, at most {MAX_TEXT} characters.")]
