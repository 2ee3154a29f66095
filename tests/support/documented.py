"""Holds answers against the API document: nothing is answered that it does not say."""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx
import jsonschema_rs

WIRE_ONLY = {"400", "408", "414", "431"}
"""Statuses of what is refused before a call is known."""


FOR_NO_CALL = {204, 401, 404, 405, 414, 422, 429, 503}
"""What may be answered to a request that is for no operation."""


class Documented:
    """The operations of an API document, and validators of their answers."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, str]] = set()
        self._validators: dict[tuple[str, str, str], jsonschema_rs.Validator] = {}

    @cached_property
    def _paths(self) -> list[tuple[re.Pattern[str], str]]:
        """Paths without parameters first: they are matched before those with one."""
        paths = sorted(self.document["paths"], key=lambda path: path.count("{"))
        return [(re.compile(re.sub(r"{\w+}", "[^/]+", path) + r"\Z"), path) for path in paths]

    def call_of(self, method: str, raw_path: str) -> str | None:
        """The operation that a request is for, as ``METHOD /path``; null if it is for none."""
        path = next((path for pattern, path in self._paths if pattern.match(raw_path)), None)
        if path is None or method.lower() not in self.document["paths"][path]:
            return None
        return f"{method} {path}"

    def check(self, response: httpx.Response) -> None:
        """Fails unless the answer has a status, a type, headers and a form that its operation says."""
        request = response.request
        raw_path = request.url.raw_path.decode("ascii").partition("?")[0]
        call = self.call_of(request.method, raw_path)
        if call is None:
            if request.method == "HEAD":
                return
            if response.headers.get("content-type") == "application/problem+json":
                self._check_problem(response)
            assert response.status_code in FOR_NO_CALL, (request.method, raw_path, response.status_code)
            return
        method, _, path = call.partition(" ")
        answers = self.document["paths"][path][method.lower()]["responses"]
        status = str(response.status_code)
        assert status in answers, f"{call} answered {status}, which is not documented: {response.text[:500]}"
        self.seen.add((call, status))
        self._check_headers(call, answers[status], response)
        content = answers[status].get("content")
        if content is None:
            assert not response.content, f"{call} {status} has a body"
            return
        kind = response.headers["content-type"].partition(";")[0]
        assert kind in content, f"{call} {status} answered {kind}"
        if kind.endswith("json"):
            errors = [
                f"{error.instance_path}: {error.message}"
                for error in self.validator(call, status, kind).iter_errors(response.json())
            ]
            assert not errors, f"{call} {status}: {errors[:5]} in {response.text[:1000]}"

    def _check_problem(self, response: httpx.Response) -> None:
        """A problem for what is no operation is one of those that operations have."""
        name = f"problem.{response.json()['type'].rpartition('/')[2]}"
        if name == "problem.method-not-allowed":
            return  # no operation has it
        errors = list(self.validator_of({"$ref": f"#/components/schemas/{name}"}).iter_errors(response.json()))
        assert not errors, f"{name}: {[error.message for error in errors]} in {response.text[:1000]}"

    def validator(self, call: str, status: str, kind: str) -> jsonschema_rs.Validator:
        """Of one kind of answer."""
        found = self._validators.get((call, status, kind))
        if found is None:
            method, _, path = call.partition(" ")
            schema = self.document["paths"][path][method.lower()]["responses"][status]["content"][kind]["schema"]
            found = self.validator_of(schema)
            self._validators[call, status, kind] = found
        return found

    def validator_of(self, schema: Any) -> jsonschema_rs.Validator:
        """Of any schema in the document; a member that is not named in it is an error."""
        rooted = json.loads(json.dumps(schema).replace("#/components/schemas/", "#/$defs/"))
        defs = json.loads(
            json.dumps(self.document["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/")
        )
        whole = {**rooted, "$defs": defs}
        return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)

    @staticmethod
    def _check_headers(call: str, answer: Mapping[str, Any], response: httpx.Response) -> None:
        for name, header in answer.get("headers", {}).items():
            assert name in response.headers or not header["required"], f"{call} {response.status_code} lacks {name}"
        known = {name.lower() for name in answer.get("headers", {})}
        for name in ("idempotency-replayed", "retry-after", "x-session-id", "ratelimit", "ratelimit-policy"):
            assert name not in response.headers or name in known, f"{call} {response.status_code} has {name}"
