"""Query parameters: only those that the call declares, each at most once. A slip must not change what is listed."""

from collections import Counter

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request

from app.documents import MAX_ERRORS, pointer_to
from app.errors import INVALID_REQUEST, FieldError, Problem


async def known_parameters(request: Request) -> None:
    """A dependency of every call: 422 with a pointer to each query parameter that is unknown or stands twice."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        raise TypeError("only calls of the API have parameters")
    known = _declared(route.dependant)
    errors = [
        FieldError(pointer_to((name,)), "stands more than once" if name in known else "is no parameter of this call")
        for name, times in given.items()
        if times > 1 or name not in known
    ]
    if errors:
        raise Problem(
            INVALID_REQUEST, "the query does not have the form that this call takes", errors=errors[:MAX_ERRORS]
        )


def _declared(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_declared(inner) for inner in dependant.dependencies))
