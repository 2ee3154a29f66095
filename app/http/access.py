"""Who calls, and whether they may: every operation declares what it asks for, and one gate stands before all of them.

An operation is declared by :func:`allowed` on its endpoint; one without a declaration fails the start of the service
(:func:`check_declared`). What a stranger asks for is answered 401, whatever it is; what a key may not do is 403. A user
token meets 403 at the address of another user, and 404 for a session of another, as for one that is not there: both
follow from the address alone, so neither tells whether there is such a thing.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from app.core.access import Actor, Caller, Operation, Own, Scope
from app.core.ids import Kind, account_id_of, parse_public_id
from app.errors import FORBIDDEN, NOT_FOUND, UNAUTHORIZED, Problem

Authenticate = Callable[[str], Awaitable[Caller]]
"""The caller whose credentials these are. Raises a :class:`~app.errors.Problem`, 401, if they are nobody's."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="talktime"'}
_NOT_VALID: Final = {"WWW-Authenticate": 'Bearer realm="talktime", error="invalid_token"'}
_OPERATION: Final = "__operation__"
MAX_CREDENTIALS: Final = 8192
"""Characters of a key or token; nothing longer is looked at."""


class UndeclaredRoute(Exception):
    """A route says neither what it asks of its caller nor that it is open: the service must not start."""


def allowed(scope: Scope, *actions: str, own: Own | None = None) -> Callable[[Endpoint], Endpoint]:
    """Declare what an endpoint asks of its caller; stands under the router's decorator. See :class:`Operation`."""
    return _declared(Operation(scope, own, actions))


def open_to_all(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint needs no caller."""
    return _declared(None)(endpoint)


def _declared(operation: Operation | None) -> Callable[[Endpoint], Endpoint]:
    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _OPERATION, operation)
        return endpoint

    return declare


def operation_of(route: BaseRoute) -> Operation | None:
    """What the route asks of its caller; null if it is open. Raises :class:`UndeclaredRoute` if it does not say."""
    endpoint = getattr(route, "endpoint", None)
    try:
        operation: Operation | None = getattr(endpoint, _OPERATION)
    except AttributeError:
        raise UndeclaredRoute(f"{getattr(route, 'path', route)!s} declares no scope and is not declared open") from None
    return operation


def check_declared(routes: Iterable[BaseRoute]) -> None:
    """Raise :class:`UndeclaredRoute` unless each route says what it asks for, and each that changes things as what."""
    for context in iter_route_contexts(list(routes)):
        route = context.original_route
        operation = operation_of(route)
        if operation is None or not isinstance(route, Route):
            continue
        if operation.actions and (route.methods or set()) <= {"GET", "HEAD"}:
            raise UndeclaredRoute(f"{route.path} declares a change and only reads")


class Gate:
    """The dependency that stands before every operation: who calls, and whether they may."""

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    async def __call__(self, request: Request) -> None:
        """Raises a :class:`~app.errors.Problem`: 401 without valid credentials, 403 or 404 if they do not suffice."""
        operation = operation_of(request.scope["route"])
        if operation is None:
            return
        caller = await self._authenticate(_credentials(request))
        request.state.caller = caller
        if not caller.may_call(operation):
            raise _not_allowed(caller, operation)
        if caller.user_id is not None:
            _check_own(request, operation, caller.user_id)


def _credentials(request: Request) -> str:
    given = request.headers.getlist("authorization")
    scheme, _, credentials = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    credentials = credentials.strip()
    if scheme.lower() != "bearer" or not credentials:
        raise Problem(UNAUTHORIZED, "send the header Authorization: Bearer <key>", headers=_CHALLENGE)
    if len(credentials) > MAX_CREDENTIALS or not credentials.isascii():
        raise not_valid("this key is not valid")
    return credentials


def not_valid(detail: str) -> Problem:
    """The 401 for credentials that are nobody's, or no longer."""
    return Problem(UNAUTHORIZED, detail, headers=_NOT_VALID)


def _not_allowed(caller: Caller, operation: Operation) -> Problem:
    if caller.user_id is not None:
        return Problem(FORBIDDEN, "a user token cannot do this", extra={"required_scope": operation.scope})
    detail = f"this key lacks the scope {operation.scope}"
    return Problem(FORBIDDEN, detail, extra={"required_scope": operation.scope})


def _check_own(request: Request, operation: Operation, user_id: str) -> None:
    match operation.own:
        case Own.USER:
            own_user(request, unquote(request.path_params["user_id"]))
        case Own.SESSION:
            session = parse_public_id(Kind.SESSION, request.path_params["session_id"])
            if session is None or session.account_id != account_id_of(user_id):
                raise Problem(NOT_FOUND, "there is no session with this id")
        case _:
            pass  # the endpoint reads whom it is asked about: own_user


def own_user(request: Request, asked: str | None) -> str | None:
    """The user that a call is about where the caller may leave it out; null if nobody says.

    Raises a :class:`~app.errors.Problem`, 403, if a user token asks about another user.
    """
    own = caller_of(request).user_id
    if own is None:
        return asked
    if asked is not None and asked != own:
        raise Problem(FORBIDDEN, "this token is another user's")
    return own


def caller_of(request: Request) -> Caller:
    """The caller of a request that has passed the gate."""
    caller: Caller = request.state.caller
    return caller


def actor_of(request: Request) -> Actor:
    """The caller as the audit log keeps it."""
    address = None if request.client is None else request.client.host
    return Actor(caller_of(request).name, getattr(request.state, "request_id", None), address)
