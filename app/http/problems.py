"""Every error as a problem document: what the framework refuses, what breaks, and what we raise."""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from app.core.account import BrokenLedger
from app.db.database import DatabaseUnavailable, DatabaseUnfit
from app.documents import MAX_ERRORS, pointer_to
from app.errors import (
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    UNAVAILABLE,
    Code,
    FieldError,
    Problem,
)
from app.http.answers import internal_problem, problem_response

log = structlog.get_logger(__name__)

_HTTP_PROBLEMS: Final[dict[int, Code]] = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}


CLOSED: Final = ("/v1/", "/api/")
"""Where nothing is told, not even what there is not, to those without valid credentials."""


def add_problem_handlers(api: FastAPI, known: Callable[[Request], Awaitable[None]]) -> None:
    """Have ``api`` answer all that is raised, and what it refuses itself, with a problem document.

    ``known`` raises what a request without valid credentials is answered: no route, and so no dependency of one, has
    looked at a request for an address or method that is not there.
    """

    async def problem(_request: Request, error: Exception) -> Response:
        return problem_response(error) if isinstance(error, Problem) else _internal(error)

    async def http_error(request: Request, error: Exception) -> Response:
        code = _HTTP_PROBLEMS.get(error.status_code) if isinstance(error, HTTPException) else None
        if code is None:
            return _internal(error)
        if request.scope["path"].startswith(CLOSED):
            try:
                await known(request)
            except Problem as stranger:
                return problem_response(stranger)
            except DatabaseUnavailable as gone:
                return _unavailable(gone)
        headers = {}
        if code is METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_methods(api, request.scope)))
        return problem_response(Problem(code, code.title, headers=headers))

    async def invalid_parameters(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            return _internal(error)
        errors = [FieldError(pointer_to(tuple(item["loc"][1:])), item["msg"]) for item in error.errors()[:MAX_ERRORS]]
        return problem_response(Problem(INVALID_REQUEST, "a parameter is not as it must be", errors=errors))

    async def unavailable(_request: Request, error: Exception) -> Response:
        return _unavailable(error)

    async def broken(_request: Request, error: Exception) -> Response:
        return _internal(error)

    api.add_exception_handler(Problem, problem)
    api.add_exception_handler(HTTPException, http_error)
    api.add_exception_handler(RequestValidationError, invalid_parameters)
    api.add_exception_handler(DatabaseUnavailable, unavailable)
    api.add_exception_handler(BrokenLedger, broken)  # of its own, or the server would tell it a second time
    api.add_exception_handler(Exception, broken)


def _methods(api: FastAPI, scope: Scope) -> set[str]:
    """All methods of an address; the framework tells only those of the first route that fits."""
    return {
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in api.routes)
    }


def _unavailable(error: Exception) -> Response:
    if isinstance(error, DatabaseUnfit):
        log.error("request.database_unfit", why=str(error))
    else:
        log.warning("request.database_unavailable", why=str(error))
    return problem_response(Problem(UNAVAILABLE, "nothing may have been changed; try again with the same key"))


def _internal(error: Exception) -> Response:
    return problem_response(internal_problem(error))
