"""The client is the one of the API document: each operation once, with its parameters, and in files that are fresh."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import talktime
from talktime import problems
from talktime.async_calls import AsyncCalls
from talktime.sync_calls import SyncCalls
from tools.client import generated
from tools.document import Unknown, api_document, operations
from tools.names import METHODS
from tools.reference import FILE, reference

ROOT = Path(__file__).parents[2]
OTHER_FORMS = {"charge_svg", "entries_csv", "live_events", "roll_forward_csv"}


@pytest.fixture(scope="module")
def document() -> Mapping[str, Any]:
    return api_document()


def methods(client: type) -> dict[str, Any]:
    return {name: value for name, value in vars(client).items() if inspect.isfunction(value)}


def test_the_generated_files_are_fresh(document: Mapping[str, Any]) -> None:
    for path, text in generated(document).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is not what `make client` writes"


def test_the_reference_is_fresh_and_names_every_method() -> None:
    text = reference()
    assert (ROOT / FILE).read_text(encoding="utf-8") == text, f"{FILE} is not what `make client` writes"
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert set(methods(SyncCalls)) <= set(headings)
    assert ":class:" not in text
    assert "``" not in text.replace("```", "")


@pytest.mark.parametrize("client", [SyncCalls, AsyncCalls])
def test_every_operation_has_a_method_with_its_parameters(client: type, document: Mapping[str, Any]) -> None:
    found = methods(client)
    assert set(found) == set(METHODS.values()) | OTHER_FORMS
    told = {
        name: re.findall(r"``((?:GET|POST|PATCH|DELETE) /\S+)``", inspect.getdoc(one) or "")
        for name, one in found.items()
    }
    for call, name in METHODS.items():
        method, _, path = call.partition(" ")
        operation = document["paths"][path][method.lower()]
        assert told[name] == [call]
        parameters = inspect.signature(found[name]).parameters
        known = [one["name"] for one in operation["parameters"] if one["in"] in {"path", "query"}]
        taken = operation.get("requestBody", {}).get("content", {})
        body = taken.get("application/json", {}).get("schema", {})
        whole = ["content"] if "text/csv" in taken else []
        keyed = ["idempotency_key"] if any(one["name"] == "Idempotency-Key" for one in operation["parameters"]) else []
        assert sorted(parameters) == sorted(["self", *known, *body.get("properties", {}), *whole, *keyed]), name
        for one in operation["parameters"]:
            if one["in"] == "path":
                assert parameters[one["name"]].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        for member in body.get("properties", {}):
            required = parameters[member].default is inspect.Parameter.empty
            assert required == (member in body.get("required", ())), (name, member)
            assert parameters[member].kind is inspect.Parameter.KEYWORD_ONLY
    calls = {call for path, of in document["paths"].items() for call in (f"{one.upper()} {path}" for one in of)}
    assert {call for call in calls if call.split(" ")[1].startswith(("/v1/", "/api/"))} == set(METHODS)


def test_both_clients_have_the_same_arguments() -> None:
    for name, one in methods(SyncCalls).items():
        assert inspect.signature(methods(AsyncCalls)[name]).parameters == inspect.signature(one).parameters


def test_every_problem_of_the_document_has_its_class(document: Mapping[str, Any]) -> None:
    told = {
        name.removeprefix("problem."): schema["properties"]["status"]["const"]
        for name, schema in document["components"]["schemas"].items()
        if name.startswith("problem.")
    }
    assert set(problems.BY_CODE) == set(told)
    for code, kind in problems.BY_CODE.items():
        assert f"``{code}``, {told[code]}:" in (kind.__doc__ or "")


def test_an_operation_without_a_name_stops_the_generator(document: Mapping[str, Any]) -> None:
    paths = dict(document["paths"])
    with pytest.raises(Unknown, match=r"no method for \['GET /v1/new'\]"):
        list(operations({**document, "paths": {**paths, "/v1/new": {"get": paths["/v1/settings"]["get"]}}}))
    with pytest.raises(Unknown, match=r"not there any more: \['GET /v1/settings', 'PATCH /v1/settings'\]"):
        list(operations({**document, "paths": {path: of for path, of in paths.items() if path != "/v1/settings"}}))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).partition(".")[0])
    return found


def test_it_needs_httpx_and_nothing_else() -> None:
    files = sorted((ROOT / "talktime").rglob("*.py"))
    needed = set().union(*(imported(path) for path in files)) - set(sys.stdlib_module_names)
    assert needed == {"httpx", "talktime"}
    assert "httpx" not in imported(ROOT / "talktime" / "webhooks.py")
    assert (ROOT / "talktime" / "py.typed").exists()


def test_its_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert talktime.__version__ == project["project"]["version"]
    assert "talktime" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_receiving_events_needs_nothing_but_the_standard_library() -> None:
    """In a process of its own, in which httpx cannot be imported."""
    program = "import sys; sys.modules['httpx'] = None; from talktime import webhooks; print(webhooks.verify.__name__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("verify", 0), done.stderr
