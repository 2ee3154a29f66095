"""What a call may raise::

    TalktimeError
    ├── NoAnswer               the service could not be asked, or what it answered did not arrive
    │   ├── ConnectionFailed
    │   └── TimedOut
    ├── UnexpectedAnswer       something answered, but not as Talktime does: a proxy, a redirect, another version
    └── Problem                the service refused; its code says why, and talktime.problems has a class for each
        ├── AccessDenied       401, 403
        ├── Conflict           409
        ├── Invalid            422
        ├── Malformed          400, 408, 413, 414, 415, 431
        └── ServerProblem      5xx

Arguments that cannot be sent at all (a ``float`` for credits, an instant without a time zone) are ``TypeError`` and
``ValueError``, and nothing is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any, ClassVar, Self, get_type_hints

from talktime.values import read


class TalktimeError(Exception):
    """The root of all others.

    ``idempotency_key``: under which a write was sent; null for a read. The same call with it goes on where this one
    ended.
    """

    idempotency_key: str | None = None


class NoAnswer(TalktimeError):
    """Nothing was answered, after ``attempts``: whether a write had its effect is not known.

    Send it again with ``idempotency_key``: that has one effect and answers what came of it.
    """

    def __init__(self, detail: str, *, attempts: int, idempotency_key: str | None = None) -> None:
        self.attempts = attempts
        self.idempotency_key = idempotency_key
        super().__init__(detail)


class ConnectionFailed(NoAnswer):
    """No connection, or it was cut."""


class TimedOut(NoAnswer):
    """No answer within the time of an attempt, or of the whole call."""


class UnexpectedAnswer(TalktimeError):
    """An answer that is not one of Talktime's API. ``status``: of the answer."""

    def __init__(self, detail: str, *, status: int, idempotency_key: str | None = None) -> None:
        self.status = status
        self.idempotency_key = idempotency_key
        super().__init__(f"{detail} (status {status})")


@dataclass(frozen=True, slots=True)
class FieldError:
    """``pointer``: a JSON pointer into the body, or a parameter's name behind a slash."""

    pointer: str
    detail: str


class Problem(TalktimeError):
    """The service answered that it does not do what was asked (RFC 9457).

    ``code``: stays the same from version to version. ``status``: of HTTP. ``detail``: for people. ``errors``: what is
    wrong with the request, and where. ``retry_after``: seconds after which the same request may succeed, or null.
    ``request_id``: under which the service's log tells more. ``members``: all of the document.
    """

    of_code: ClassVar[str | None] = None

    def __init__(
        self,
        *,
        code: str,
        status: int,
        title: str,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
        request_id: str | None = None,
        idempotency_key: str | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        self.code = code
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.request_id = request_id
        self.idempotency_key = idempotency_key
        self.members: Mapping[str, Any] = members or {}
        told = f"{status} {code}: {detail}" + "".join(f"; {one.pointer or 'body'}: {one.detail}" for one in errors[:5])
        super().__init__(told + (f" ({request_id})" if request_id else ""))

    @classmethod
    def read(cls, common: Mapping[str, Any]) -> Self:
        """The problem with those members of its document that its class names.

        Raises :class:`~talktime.values.Misfit` if one of them is not as it must be.
        """
        problem = cls(**common)
        hints = get_type_hints(cls)
        for name in get_annotations(cls):
            if name != "of_code":
                setattr(problem, name, read(hints[name], problem.members.get(name)))
        return problem


class AccessDenied(Problem):
    """The key is not known, or may not do this."""


class Conflict(Problem):
    """What is asked for does not go with what there is."""


class Invalid(Problem):
    """The request is not as it must be: ``errors`` say where."""


class Malformed(Problem):
    """The request could not be read, or not to its end."""


class ServerProblem(Problem):
    """The service, or the provider behind it, could not do it."""


def family_of(status: int) -> type[Problem]:
    """The class of problems of a status whose code is not known."""
    if status >= 500:
        return ServerProblem
    named: dict[int, type[Problem]] = {401: AccessDenied, 403: AccessDenied, 409: Conflict, 422: Invalid}
    named |= dict.fromkeys((400, 408, 413, 414, 415, 431), Malformed)
    return named.get(status, Problem)
