"""Reading the API document for the client: operations with their parameters, and schemas as types of Python."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, Final

from app.service import Service
from app.settings import Settings
from tools.names import METHODS

Schema = Mapping[str, Any]

JSON: Final = "application/json"
CSV: Final = "text/csv"
EVENT_STREAM: Final = "text/event-stream"
STREAMED: Final = {CSV: "csv", EVENT_STREAM: "events"}
"""Kinds of answers that are read while they come, and how their methods' names end."""

WHOLE: Final = {"image/svg+xml": ("svg", "str"), "application/octet-stream": ("", "bytes")}
COMMON: Final = frozenset(
    {
        "address-too-long", "body-too-large", "forbidden", "headers-too-large", "idempotency-conflict",
        "idempotency-in-flight", "idempotency-key-expired", "internal-error", "invalid-json", "invalid-request",
        "malformed-request", "not-found", "rate-limited", "request-timeout", "unauthorized", "unavailable",
        "unsupported-media-type",
    }
)  # fmt: skip
"""Problems that most calls may answer."""


class Unknown(Exception):
    """The document has something that the generator has no rule for."""


def api_document() -> dict[str, Any]:
    """The document of the service as it is in this checkout. Nothing is started."""
    settings = Settings(
        gabber_api_key="none-is-called",  # type: ignore[arg-type]
        secret=("nothing-is-signed",),  # type: ignore[arg-type]
        _env_file=None,  # type: ignore[call-arg]
    )
    return Service(settings, "postgresql://nobody@127.0.0.1:1/nothing").api_document


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    name: str
    schema: Schema
    required: bool
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """``answers``: the schema of each kind of answer that went well. ``headers``: of it that are always there.

    ``body_kind``: the media type of the body; null: there is none. ``body``: its members, if it is JSON.
    """

    call: str
    name: str
    tag: str
    summary: str
    description: str
    path: tuple[Parameter, ...]
    query: tuple[Parameter, ...]
    body: tuple[Parameter, ...]
    body_kind: str | None
    body_description: str
    keyed: bool
    answers: Mapping[str, Schema]
    headers: Mapping[str, Schema] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        return self.call.partition(" ")[0]

    @property
    def template(self) -> str:
        return self.call.partition(" ")[2]


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Those that the client has, in the document's order. Raises :class:`Unknown` for one without a name."""
    found = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        if path.startswith(("/v1/", "/api/"))
        for method, operation in methods.items()
    }
    if set(found) != set(METHODS):
        lacking, gone = sorted(set(found) - set(METHODS)), sorted(set(METHODS) - set(found))
        raise Unknown(f"tools/names.py has no method for {lacking}; not there any more: {gone}")
    for call, told in found.items():
        yield _operation(call, told)


def _operation(call: str, told: Mapping[str, Any]) -> Operation:
    content = told.get("requestBody", {}).get("content", {})
    if len(content) > 1 or set(content) - {JSON, CSV}:
        raise Unknown(f"{call} takes {sorted(content)}")
    body = content.get(JSON, {}).get("schema", {})
    answers: dict[str, Schema] = {}
    headers: dict[str, Schema] = {}
    problems: list[str] = []
    for status, reply in told["responses"].items():
        if status < "3":
            answers |= {kind: one["schema"] for kind, one in reply.get("content", {}).items()}
            headers |= {
                name: one["schema"]
                for name, one in reply["headers"].items()
                if one["required"] and name != "X-Request-Id"
            }
        else:
            problems += re.findall(r"`([a-z-]+)`:", reply["description"]) or _problem_names(reply)
    if set(answers) - {JSON} - set(STREAMED) - set(WHOLE):
        raise Unknown(f"{call} answers {sorted(answers)}")
    parameters = told["parameters"]
    return Operation(
        call=call,
        name=METHODS[call],
        tag=told["tags"][0],
        summary=told["summary"],
        description=told["description"],
        path=tuple(_parameter(one) for one in parameters if one["in"] == "path"),
        query=tuple(_parameter(one) for one in parameters if one["in"] == "query"),
        body=tuple(
            Parameter(
                name=name,
                schema=schema,
                required=name in body.get("required", ()),
                description=schema.get("description", ""),
            )
            for name, schema in body.get("properties", {}).items()
        ),
        body_kind=next(iter(content), None),
        body_description=body.get("description", ""),
        keyed=any(one["name"] == "Idempotency-Key" for one in parameters),
        answers=answers,
        headers=headers,
        problems=tuple(code for code in dict.fromkeys(problems) if code not in COMMON),
    )


def _problem_names(reply: Mapping[str, Any]) -> list[str]:
    return re.findall(r'"#/components/schemas/problem\.([a-z-]+)"', json.dumps(reply))


def _parameter(told: Mapping[str, Any]) -> Parameter:
    return Parameter(
        name=told["name"], schema=told["schema"], required=told["required"], description=told["description"]
    )


# Schemas


def nullable(schema: Schema) -> tuple[Schema, bool]:
    """The schema without null, and whether null fits it."""
    options = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(options) == 1:
        return options[0], True
    return schema, False


def is_amount(schema: Schema) -> bool:
    """Whether it is a decimal string."""
    return schema.get("type") == "string" and r"\.[0-9]{1," in str(schema.get("pattern", ""))


def form_of(schema: Any) -> str:
    """The schema as a text that is the same for the same form, whatever is told of it."""

    def bare(value: Any) -> Any:
        if isinstance(value, list):
            return [bare(one) for one in value]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, Mapping):
            return value
        told = {"description", "examples"} if not isinstance(value.get("description"), Mapping) else set()
        return {name: bare(one) for name, one in value.items() if name not in told}

    return json.dumps(bare(schema), sort_keys=True)


def camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name))


def singular(name: str) -> str:
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def identifier(name: str) -> str:
    """The name as Python has it: with a line below where it is a word of the language."""
    return f"{name}_" if iskeyword(name) else name


def doc(text: str) -> str:
    """A text of the document for docstrings: code between double backticks, ending with a full stop."""
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", " ".join(text.split()))
