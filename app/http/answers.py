"""JSON answers: decimals as JSON numbers digit for digit, problems as ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog
from starlette.responses import Response

from app.core.account import BrokenLedger
from app.errors import INTERNAL, Problem
from app.logs import current_request

log = structlog.get_logger(__name__)

_encoder: Final = msgspec.json.Encoder(decimal_format="number")

PROBLEM_TYPES: Final = "/problems/"
"""``type`` is this path and the code."""


def encode(content: Any) -> bytes:
    """JSON in UTF-8; ``Decimal`` becomes a number with all its digits, ``msgspec.Raw`` stands as it is."""
    return _encoder.encode(content)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON document; what idempotent calls store and give again.

    ``secrets``: further members of the document that must not be stored as they are.
    """

    status: int
    content: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def storable(self) -> Any:
        """The document with null in place of each secret."""
        return {**self.content, **dict.fromkeys(self.secrets)} if self.secrets else self.content

    def response(self) -> Response:
        kind = "application/problem+json" if self.status >= 400 else "application/json"
        content = {**self.content, **self.secrets} if self.secrets else self.content
        return Response(encode(content), self.status, self.headers, media_type=kind)


def json_response(content: Any, status: int = 200) -> Response:
    return Answer(status, content).response()


def problem_document(problem: Problem) -> dict[str, Any]:
    """The problem as a document; ``errors`` only where there are any."""
    document: dict[str, Any] = {
        "type": PROBLEM_TYPES + problem.code,
        "title": problem.kind.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors:
        document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in problem.errors]
    return document | problem.extra


def internal_problem(error: Exception) -> Problem:
    """The answer to a request that met a fault of ours. What it was stands in the log, under the request's id."""
    if isinstance(error, BrokenLedger):
        log.error("ledger.broken", detail="the ledger contradicts itself: run talktime verify", exc_info=error)
    else:
        log.error("request.broke", exc_info=error)
    extra = {"request_id": current_request.get()}
    return Problem(INTERNAL, "a fault of ours: it is in the log under this request's id", extra=extra)


def problem_response(problem: Problem) -> Response:
    headers = dict(problem.headers)
    if problem.kind.retryable:
        headers.setdefault("Retry-After", "1")
    return Response(encode(problem_document(problem)), problem.status, headers, media_type="application/problem+json")
