"""One call as data, made by the methods of both clients, and what an answer to it is: shared, and without any I/O."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from talktime import problems
from talktime.errors import FieldError, Problem, UnexpectedAnswer, family_of
from talktime.retries import RETRIED, RETRIED_STATUSES, retry_after_s
from talktime.values import UNSET, Misfit, json_bytes, parsed, read

T = TypeVar("T")

JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_KEY: Final = re.compile(r"[ -~]{1,255}\Z")
_CREDENTIAL: Final = re.compile(r"[!-~]+\Z")
_LOOPBACK: Final = re.compile(r"localhost|127(\.[0-9]+){3}|::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """``name``: of the client's method. ``target``: path and query. ``key``: null where the call takes none.

    ``reads``: the type of the answer's document; ``str`` and ``bytes``: the body is it, as it is. ``headers``: of the
    answer, by the field that they become. ``last_event_id``: of a stream, what was seen of it last.
    """

    name: str
    method: str
    target: str
    accept: str = JSON
    body: bytes | None = None
    body_kind: str = JSON
    last_event_id: str | None = None
    key: str | None = None
    reads: Any = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """``headers``: by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return kind_of(self.headers.get("content-type", ""))


def target(template: str, query: Mapping[str, str | int | bool | None] | None = None, **path: str) -> str:
    """Path and query. What is null is left out.

    Raises ``ValueError`` for an empty part of a path, ``TypeError`` for one that is no text: either would be another
    call.
    """
    made = re.sub(r"{(\w+)}", lambda named: _segment(named[1], path[named[1]]), template)
    asked = {name: _text(value) for name, value in (query or {}).items() if value is not None}
    return made + ("?" + urlencode(asked, quote_via=quote) if asked else "")


def _segment(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    made = quote(value, safe="")
    return made.replace(".", "%2E") if made.strip(".") == "" else made  # . and .. would be taken for steps


def _text(value: str | int | bool) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def given(**members: Any) -> bytes:
    """A body of what is not null: null and absent mean the same to the call."""
    return json_bytes({name: value for name, value in members.items() if value is not None and value is not UNSET})


def changed(**members: Any) -> bytes:
    """A body of what is not :data:`~talktime.values.UNSET`: null takes something away."""
    return json_bytes({name: value for name, value in members.items() if value is not UNSET})


def text_of(content: str | bytes) -> bytes:
    """A body that is no JSON, as it is sent. ``TypeError`` for anything but text, or bytes of it."""
    if isinstance(content, str):
        return content.encode("utf-8")
    if not isinstance(content, bytes):
        raise TypeError(f"a text, or the bytes of one, is needed, not {type(content).__name__}")
    return content


def key_of(given_key: str | None) -> str:
    """The ``Idempotency-Key`` of a write: the caller's, or one that nobody else draws.

    Raises ``ValueError`` for one that is not 1 to 255 printable characters of ASCII.
    """
    if given_key is None:
        return f"ttc_{secrets.token_hex(16)}"
    if not isinstance(given_key, str) or not _KEY.match(given_key):
        raise ValueError("an idempotency key is 1 to 255 printable ASCII characters")
    return given_key


def checked_base_url(url: str, *, allow_http: bool) -> str:
    """``url`` without a slash at its end.

    Raises ``ValueError`` unless it is an absolute http(s) URL of a host and perhaps a path; ``http`` leads only to this
    machine, unless ``allow_http``: anybody on the way could read the key.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the base URL is no URL") from None
    if parts.scheme not in {"http", "https"} or not host or not _CREDENTIAL.match(url):
        raise ValueError("the base URL is not an absolute http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the base URL must not hold a user or password")
    if "?" in url or "#" in url:
        raise ValueError("the base URL must not hold a query or fragment")
    if parts.scheme == "http" and not allow_http and not _LOOPBACK.fullmatch(host):
        raise ValueError("the base URL is http, which shows the key to the network: use https, or allow_http=True")
    return url.rstrip("/")


def checked_credential(key: str) -> str:
    """An API key or user token as it can stand in a header; ``ValueError``, which does not show it, for any other."""
    if not isinstance(key, str) or not _CREDENTIAL.match(key):
        raise ValueError("the API key is empty or holds characters that no key has")
    return key


# Answers


def result_of(call: Call[T], answer: Answer) -> T:
    """What an answer that went well says. Raises :class:`~talktime.errors.UnexpectedAnswer`."""
    if not is_expected(call, answer.status, answer.kind):
        raise _unexpected(call, answer)
    if call.reads is bytes or call.reads is str:
        return answer.body if call.reads is bytes else answer.body.decode("utf-8", "replace")  # type: ignore[return-value]
    try:
        document = parsed(answer.body)
        if isinstance(document, dict):
            of_headers = {field: answer.headers.get(name) for field, name in (call.headers or {}).items()}
            document = {**document, **{field: value for field, value in of_headers.items() if value is not None}}
        found: T = read(call.reads, document)
    except Misfit as misfit:
        raise UnexpectedAnswer(
            f"{call.name}: not the answer of this call: {misfit}", status=answer.status, idempotency_key=call.key
        ) from None
    return found


def kind_of(content_type: str) -> str:
    """The media type alone, in small letters."""
    return content_type.partition(";")[0].strip().lower()


def is_expected(call: Call[Any], status: int, kind: str) -> bool:
    """Whether an answer of this status and media type is one that went well."""
    return 200 <= status < 300 and kind == call.accept


def _unexpected(call: Call[Any], answer: Answer) -> UnexpectedAnswer:
    what = f"{call.name}: an answer of type {answer.kind or 'none'}"
    if 300 <= answer.status < 400:
        what = f"{call.name}: a redirect, which is not followed"
    return UnexpectedAnswer(what, status=answer.status, idempotency_key=call.key)


def problem_of(call: Call[Any], answer: Answer) -> Problem | UnexpectedAnswer:
    """What an answer that is no 2xx is raised as."""
    document: Any = None
    if answer.status >= 400 and answer.kind == _PROBLEM:
        try:
            document = parsed(answer.body)
        except Misfit:
            document = None
    if not isinstance(document, dict):
        return _unexpected(call, answer)
    code = str(document.get("type", "")).rpartition("/")[2]
    common: dict[str, Any] = {
        "code": code,
        "status": answer.status,
        "title": str(document.get("title", "")),
        "detail": str(document.get("detail", "")),
        "errors": _field_errors(document.get("errors")),
        "retry_after": retry_after_s(answer.headers.get("retry-after")),
        "request_id": answer.headers.get("x-request-id"),
        "idempotency_key": call.key,
        "members": document,
    }
    kind = problems.BY_CODE.get(code)
    try:
        return family_of(answer.status)(**common) if kind is None else kind.read(common)
    except Misfit:
        return family_of(answer.status)(**common)


def _field_errors(value: Any) -> tuple[FieldError, ...]:
    try:
        found: tuple[FieldError, ...] = read(tuple[FieldError, ...], value or [])
    except Misfit:
        return ()
    return found


def is_retried(failure: Problem | UnexpectedAnswer) -> bool:
    """Whether the same request may be sent again after it."""
    if isinstance(failure, Problem):
        return failure.code in RETRIED
    return failure.status in RETRIED_STATUSES
