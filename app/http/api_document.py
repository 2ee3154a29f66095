"""The API for machines: OpenAPI 3.1, made of what the framework knows of the routes and what each folder says of them.

The framework knows addresses, parameters and bodies. Each capability's ``schemas.py`` says what is answered. A call
that either of them lacks, or a parameter that is not described, stops the start: :class:`UndescribedCall`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from fastapi import FastAPI

from app.core.access import Access, Scope
from app.core.units import US_PER_S, MicroCredits, format_credits
from app.errors import (
    ADDRESS_TOO_LONG,
    BODY_TOO_LARGE,
    FORBIDDEN,
    HEADERS_TOO_LARGE,
    IDEMPOTENCY_CONFLICT,
    IDEMPOTENCY_EXPIRED,
    IDEMPOTENCY_IN_FLIGHT,
    INSUFFICIENT_CREDITS,
    INTERNAL,
    INVALID_JSON,
    INVALID_REQUEST,
    MALFORMED_REQUEST,
    NOT_FOUND,
    PERSONA_NOT_ACCEPTED,
    PROVIDER_REFUSED,
    PROVIDER_UNCONFIRMED,
    RATE_LIMITED,
    REQUEST_TIMEOUT,
    UNAUTHORIZED,
    UNAVAILABLE,
    UNSUPPORTED_MEDIA_TYPE,
    Code,
)
from app.http.access import declared
from app.http.answers import PROBLEM_TYPES
from app.http.schemas import (
    CSV,
    JSON,
    PROBLEM_JSON,
    Described,
    Operation,
    Reply,
    Schema,
    amount,
    duration,
    instant,
    listed,
    one_of,
    or_null,
    public_id,
    record,
    ref,
    text,
    whole,
)

DESCRIPTION: Final = """Prepaid credits for real-time voice AI sessions.

Credits are decimal strings, durations JSON numbers of seconds, instants RFC 3339 in UTC. Every error is a problem
document (RFC 9457), whose `type` ends with a code that stays the same. Every call that writes takes `Idempotency-Key`:
the same key with the same request has one effect and one answer. Lists come in pages that new rows do not shift.

Send `Authorization: Bearer` with an API key, which may do what its scopes say, or with a user token, which reaches what
is that user's own."""

_TAGS: Final = {
    "sessions": "Starting sessions, and what became of them.",
    "corrections": "Giving back, rating again, deciding reviews, and adjusting by hand.",
    "users": "Balances, statements, grants and settings of users.",
    "recurring grants": "Grants that come again each period.",
    "payments": "Payments that become grants.",
    "settings": "What is set for all users.",
    "finance": "The books of a period.",
    "pricing": "Rate cards, and what evidence would cost.",
    "events": "What happened, to whom it is told, and what arrived.",
    "access": "Keys, tokens of users, and who changed what.",
    "heartbeats": "For the provider.",
    "service": "The process itself.",
}

_CONNECTION: Final = (MALFORMED_REQUEST, REQUEST_TIMEOUT, ADDRESS_TOO_LONG, HEADERS_TOO_LARGE)
"""What is refused before it is known which call is meant."""

_ALWAYS: Final = (*_CONNECTION, INVALID_REQUEST, INTERNAL)
_WITH_KEY: Final = (UNAUTHORIZED, FORBIDDEN, RATE_LIMITED, UNAVAILABLE)
_WITH_IDEMPOTENCY_KEY: Final = (IDEMPOTENCY_CONFLICT, IDEMPOTENCY_IN_FLIGHT, IDEMPOTENCY_EXPIRED)
_WITH_BODY: Final = (INVALID_JSON, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE)

_SESSION_ID: Final = {"session_id": public_id("ses", "The session that was asked for.")}
_OF_THE_PROVIDER: Final = {
    "provider_status": or_null(whole("The provider's status; null: it was not reached.", 400)),
    "provider_code": text("invalid_input", "The provider's own code."),
}
_MEMBERS: Final[Mapping[str, Mapping[str, Schema]]] = {
    "forbidden": {"required_scope": one_of(Scope, "What the call needs.")},
    "insufficient-credits": {
        "available": amount("What the user has for a session.", "10"),
        "required": amount("What the shortest session needs.", "30"),
        "max_time_limit_s": duration("The longest session that is affordable; 0: none.", 0),
    },
    "spend-limit-reached": {
        "period": one_of(("day", "month")),
        "limit": amount("What may be spent in it.", "50"),
        "charged": amount("What was.", "45"),
        "held": amount("What running sessions hold.", "0"),
        "resets_at": instant("When the next period begins."),
    },
    "below-floor": {"available": amount("What may be taken.", "10")},
    "refund-exceeds-charge": {"left": amount("What is left of the charge.", "10")},
    "provider-refused": {**_SESSION_ID, **_OF_THE_PROVIDER},
    "persona-not-accepted": {**_SESSION_ID, **_OF_THE_PROVIDER},
    "provider-unconfirmed": _SESSION_ID,
    "end-refused": _OF_THE_PROVIDER,
}
"""Members of a problem besides those of all of them."""

_MAY_LACK: Final = {"provider-refused": tuple(_OF_THE_PROVIDER), "forbidden": ("required_scope",)}
"""A session that failed for another reason than the provider's refusal has none of these; a user token that asks for
another user lacks no scope."""

_GIVEN_AGAIN: Final = frozenset(
    {INVALID_REQUEST, INSUFFICIENT_CREDITS, PERSONA_NOT_ACCEPTED, PROVIDER_REFUSED, PROVIDER_UNCONFIRMED}
)
"""What the same request with the same key is told again, marked as such."""

_BEFORE_A_CALLER_IS_KNOWN: Final = frozenset({*_CONNECTION, UNAUTHORIZED})
"""What says nothing of a caller's limits."""

_SOMETIMES_RETRYABLE: Final = frozenset({"end-refused", "provider-refused"})

_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request has one effect and one answer, for 30 days.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": "^[ -~]+$",
        "examples": ["invoice-1001"],
    },
}
_REPLAYED: Final = {"Idempotency-Replayed": one_of(("true",), "The answer of an earlier request with this key.")}
_RETRY_AFTER: Final = whole("Seconds after which the same request may succeed.", 1)
_RATE_HEADERS: Final = {
    "RateLimit": text('"caller";r=4999;t=1', "Calls that remain (`r`), and seconds until all are there again (`t`)."),
    "RateLimit-Policy": text('"caller";q=5000;w=10', "Calls that a key has (`q`) within so many seconds (`w`)."),
}
_REQUEST_ID: Final = text("req_0gxajfv4rwp28nnhtwyrtcpeqc", "Of this request; the log has it as well.")

_TEXTS: Final = {
    "user_id": "ada",
    "persona": "tutor",
    "scenario": "guide",
    "reason": "goodwill after a dropped call",
    "reference": "invoice-1001",
    "name": "evening",
    "rate_card": "evening",
}
"""Examples of texts in bodies, by the name of their field."""


class UndescribedCall(Exception):
    """A route and its description do not fit."""


def api_document(api: FastAPI, version: str, described: Iterable[Described]) -> dict[str, Any]:
    """The whole document for the routes of ``api`` and what is ``described`` of them.

    Raises :class:`UndescribedCall` if a route, or one of its parameters, has no description, or the other way round.
    """
    operations: dict[str, Operation] = {}
    schemas: dict[str, Schema] = {}
    for part in described:
        operations |= part.operations
        schemas |= part.schemas
    known = {
        f"{method.upper()} {path}": operation
        for path, methods in api.openapi()["paths"].items()
        for method, operation in methods.items()
    }
    missing = [call for call in known if call not in operations]
    unknown = [call for call, one in operations.items() if call not in known and not one.summary]
    if missing or unknown:
        raise UndescribedCall(f"not described: {missing}; described, but not there: {unknown}")
    asked = {call: access for call, access in declared(api.routes).items() if call in known}
    for call, access in asked.items():
        if operations[call].open != (access is None):
            raise UndescribedCall(f"{call} is described as open and is not, or the other way round")
    schemas |= {_problem_name(code): _problem_schema(code) for code in _codes(operations.values())}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {"title": "Talktime", "version": version, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": told} for name, told in _TAGS.items()],
        "paths": {},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a user token."}
            },
        },
    }
    for call, operation in operations.items():
        method, _, path = call.partition(" ")
        document["paths"].setdefault(path, {})[method.lower()] = _operation(
            call, operation, known.get(call, {}), schemas, asked.get(call)
        )
    return document


def _operation(
    call: str, described: Operation, known: Mapping[str, Any], schemas: Mapping[str, Schema], access: Access | None
) -> Any:
    method, _, path = call.partition(" ")
    body = known.get("requestBody")
    made: dict[str, Any] = {
        "tags": list(known.get("tags", described.tags)),
        "operationId": _operation_id(method, path, known),
        "summary": known.get("summary", described.summary),
        "description": described.description if access is None else f"{described.description} {_needs(access)}",
        "parameters": _parameters(call, described, known),
    }
    if body is not None:
        made["requestBody"] = _request_body(body, described)
    elif described.body is not None:
        made["requestBody"] = {"required": True, "content": {JSON: _with_example(described.body, schemas)}}
    made["responses"] = {
        str(status): _reply(reply, described, schemas) for status, reply in described.answers.items()
    } | _problems(_problems_of(described, has_body="requestBody" in made or described.idempotent, path=path), described)
    made["security"] = [] if access is None else [{"bearer": [access.scope]}]
    return made


def _needs(access: Access) -> str:
    """Who may call, for people."""
    if access.own is None:
        return f"Needs the scope `{access.scope}`."
    return f"Needs the scope `{access.scope}`, or a user token, for that user's own."


def _operation_id(method: str, path: str, known: Mapping[str, Any]) -> str:
    """The function's name, of which the framework makes an id with the address in it; else of the address."""
    made = str(known.get("operationId", ""))
    return made.removesuffix(re.sub(r"\W", "_", path) + f"_{method.lower()}") or (
        method.lower() + re.sub(r"\W+", "_", path)
    ).rstrip("_")


def _parameters(call: str, described: Operation, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = {item["name"]: item["in"] for item in known.get("parameters", [])}
    if not known:
        given = dict.fromkeys(described.parameters, "path")
    if set(given) != set(described.parameters):
        raise UndescribedCall(f"{call} has the parameters {sorted(given)}, not {sorted(described.parameters)}")
    made: list[dict[str, Any]] = [
        {
            "name": name,
            "in": where,
            "required": where == "path",
            "description": described.parameters[name].get("description", ""),
            "schema": {key: value for key, value in described.parameters[name].items() if key != "description"},
        }
        for name, where in given.items()
    ]
    return [*made, _IDEMPOTENCY_KEY] if described.idempotent else made


def _request_body(body: Mapping[str, Any], described: Operation) -> dict[str, Any]:
    if CSV in body["content"]:
        return {"required": True, "content": {CSV: _with_example(body["content"][CSV]["schema"], {})}}
    schema = _as_clients_write(body["content"][JSON]["schema"])
    example = example_of(schema, {}) if described.example is None else described.example
    return {"required": True, "content": {JSON: {"schema": schema, "example": example}}}


def _as_clients_write(schema: Any) -> Any:
    """A schema of the validation library with defaults in the units of the API, not of our own numbers."""
    if isinstance(schema, list):
        return [_as_clients_write(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _as_clients_write(inner) for name, inner in value.items()}
        if key == "properties"
        else _as_clients_write(value)
        for key, value in schema.items()
        if key not in {"title", "default"}
    }
    default = schema.get("default")
    if "default" not in schema or default is None or isinstance(default, dict):
        return made
    kinds = [option.get("type") for option in schema.get("anyOf", [schema])]
    if isinstance(default, int) and not isinstance(default, bool) and "number" in kinds:
        default = default / US_PER_S
    elif isinstance(default, int) and not isinstance(default, bool) and "string" in kinds:
        default = format_credits(MicroCredits(default))
    return {**made, "default": default}


def _with_example(schema: Schema, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {"schema": schema, "example": example_of(schema, schemas)}


def _reply(reply: Reply, described: Operation, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    headers = dict(reply.headers) | (_REPLAYED if described.idempotent else {})
    if not described.open:
        headers |= _RATE_HEADERS
    made: dict[str, Any] = {
        "description": reply.description,
        "headers": _headers(headers, required=tuple(reply.headers)),
    }
    if reply.links:
        made["links"] = {
            name: {"operationId": name, "parameters": dict(parameters)} for name, parameters in reply.links.items()
        }
    if reply.content:
        made["content"] = {kind: _with_example(schema, schemas) for kind, schema in reply.content.items()}
    return made


def _headers(headers: Mapping[str, Schema], required: Sequence[str] = ()) -> dict[str, Any]:
    return {
        name: {
            "required": name in required or name == "X-Request-Id",
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in ({"X-Request-Id": _REQUEST_ID} | dict(headers)).items()
    }


# Problems


def _problems_of(described: Operation, *, has_body: bool, path: str) -> list[Code]:
    """All problems that the call can answer, each once."""
    if described.only_problems is not None:
        return [*_CONNECTION, *described.only_problems]
    codes = [*_ALWAYS, *described.problems]
    if not described.open:
        codes += _WITH_KEY
    if has_body:
        codes += _WITH_BODY
    if described.idempotent:
        codes += _WITH_IDEMPOTENCY_KEY
    if "{" in path:
        codes.append(NOT_FOUND)
    return list(dict.fromkeys(codes))


def _codes(operations: Iterable[Operation]) -> list[Code]:
    """All problems that any call can answer, each once."""
    found = [*_ALWAYS, *_WITH_KEY, *_WITH_BODY, *_WITH_IDEMPOTENCY_KEY, NOT_FOUND]
    for operation in operations:
        found += [*operation.problems, *(operation.only_problems or ())]
    return list(dict.fromkeys(found))


def _problem_name(code: Code) -> str:
    return f"problem.{code.name}"


def _problem_schema(code: Code) -> Schema:
    members = _MEMBERS.get(code.name, {})
    error = record(
        {
            "pointer": text(
                "/amount", "A JSON pointer into the body, or a parameter's or header's name behind a slash."
            ),
            "detail": text("must be more than 0"),
        }
    )
    properties: dict[str, Schema] = {
        "type": {"type": "string", "const": PROBLEM_TYPES + code.name},
        "title": {"type": "string", "const": code.title},
        "status": {"type": "integer", "const": code.status},
        "detail": text("what is wrong, for people"),
    }
    if code is INTERNAL:
        properties["request_id"] = text("req_0gxajfv4rwp28nnhtwyrtcpeqc", "As in `X-Request-Id`.")
    if code.status == INVALID_REQUEST.status:
        properties["errors"] = listed(error, "What is wrong, and where.") | {"minItems": 1}
    return record({**properties, **members}, optional=_MAY_LACK.get(code.name, ()), description=code.title + ".")


def _problems(codes: Iterable[Code], described: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for status, group in groupby(sorted(codes, key=lambda code: (code.status, code.name)), lambda code: code.status):
        found = list(group)
        refs = [ref(_problem_name(code)) for code in found]
        given_again = described.idempotent and not _GIVEN_AGAIN.isdisjoint(found)
        headers: dict[str, Schema] = dict(_REPLAYED) if given_again else {}
        if any(code.retryable or code.name in _SOMETIMES_RETRYABLE for code in found):
            headers["Retry-After"] = _RETRY_AFTER
        if not described.open and not _BEFORE_A_CALLER_IS_KNOWN.issuperset(found):
            headers |= _RATE_HEADERS
        required = ("Retry-After",) if all(code.retryable for code in found) else ()
        made[str(status)] = {
            "description": "; ".join(f"`{code.name}`: {code.title}" for code in found) + ".",
            "headers": _headers(headers, required),
            "content": {
                PROBLEM_JSON: {
                    "schema": refs[0] if len(refs) == 1 else {"oneOf": refs},
                    "examples": {code.name: {"value": example_of(_problem_schema(code), {})} for code in found},
                }
            },
        }
    return made


# Examples


def example_of(schema: Schema, schemas: Mapping[str, Schema], name: str = "") -> Any:
    """A document that fits the schema, made of the examples in it."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    if "const" in schema:
        return schema["const"]
    for choices in ("examples", "enum"):
        if choices in schema:
            return schema[choices][0]
    for choices in ("anyOf", "oneOf"):
        if choices in schema:
            return example_of(schema[choices][0], schemas, name)
    kind = schema.get("type")
    if kind == "object":
        return {inner: example_of(schema["properties"][inner], schemas, inner) for inner in schema.get("required", ())}
    if kind == "array":
        return [example_of(schema["items"], schemas, name)] * schema.get("minItems", 1)
    if kind == "string":
        return "2026-01-31T12:00:00Z" if schema.get("format") == "date-time" else _TEXTS.get(name, "text")
    if kind in {"integer", "number"}:
        return schema.get("minimum", 0)
    return False if kind == "boolean" else {"type": "user", "start": 0, "end": 9}
