"""The API document as a page for people: made here, with its style in it, no script and nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from app.http.access import open_to_all
from app.http.answers import encode
from app.http.schemas import JSON, Described, Operation, Reply

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;color:#1b1b1b;background:#fff}"
    "nav ul{columns:2 24rem;padding-left:1rem}code{overflow-wrap:anywhere}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}"
    "pre{background:#f5f5f5;padding:.6rem;overflow-x:auto}table{border-collapse:collapse;width:100%}"
    "td,th{border-top:1px solid #ddd;padding:.3rem .6rem .3rem 0;text-align:left;vertical-align:top}"
    "h3{margin-top:2.5rem;border-top:2px solid #1b1b1b;padding-top:.8rem}h3 code{font-size:1rem}"
    "summary{cursor:pointer;padding:.3rem 0}.verb{font-weight:700}"
    "@media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#161616}pre{background:#222}"
    "td,th{border-color:#444}h3{border-color:#e8e8e8}a{color:#8ab4f8}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: this one style, and nothing else at all."""


_SHOWN: Final = {"type": "string", "examples": ['<!doctype html><html lang="en">…</html>']}
DOCUMENT: Final = Described(
    operations={
        "GET /openapi.json": Operation(
            summary="This document",
            tags=("service",),
            description="OpenAPI 3.1.",
            answers={200: Reply(description="The document.", content={JSON: {"type": "object", "examples": [{}]}})},
            open=True,
        ),
        "GET /docs": Operation(
            summary="This document for people",
            tags=("service",),
            description="A page without scripts, made of this document.",
            answers={200: Reply(description="The page.", content={"text/html": _SHOWN})},
            open=True,
        ),
    }
)
"""The document and its page, as they stand in it."""


def add_document_routes(api: FastAPI, document: Callable[[], Mapping[str, Any]]) -> None:
    """Serve the document as JSON and as a page, to everybody: they tell how to call, and nothing of what is stored."""
    as_json = cache(lambda: encode(document()))
    as_page = cache(lambda: docs_page(document()))

    @api.get("/openapi.json", include_in_schema=False)
    @open_to_all
    async def openapi() -> Response:
        return Response(as_json(), media_type="application/json")

    @api.get("/docs", include_in_schema=False)
    @open_to_all
    async def docs() -> Response:
        return HTMLResponse(as_page(), headers={"Content-Security-Policy": PAGE_POLICY})


def docs_page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    return "".join(_page(document))


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1>"
    )
    for paragraph in info["description"].split("\n\n"):
        yield f"<p>{_told(paragraph)}</p>"
    yield '<p><a href="/openapi.json">openapi.json</a> has all of it for machines.</p>'
    by_tag = {tag["name"]: list(_operations(document, tag["name"])) for tag in document["tags"]}
    yield "<nav>"
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{_told(tag['description'])}</p><ul>"
        for verb, path, operation in by_tag[tag["name"]]:
            anchor = escape(operation["operationId"], quote=True)
            yield f'<li><a href="#{anchor}"><code>{verb} {escape(path)}</code></a></li>'
        yield "</ul>"
    yield "</nav><main>"
    for operations in by_tag.values():
        for verb, path, operation in operations:
            yield from _operation(verb, path, operation)
    yield "<h2>Documents</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield (
            f'<details id="schema-{escape(name, quote=True)}"><summary><code>{escape(name)}</code></summary>'
            f"{_told(schema.get('description', ''))}{_fields(schema)}</details>"
        )
    yield "</main></body></html>\n"


def _operations(document: Mapping[str, Any], tag: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield method.upper(), path, operation


def _operation(verb: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    anchor = escape(operation["operationId"], quote=True)
    yield f'<h3 id="{anchor}"><code><span class="verb">{verb}</span> {escape(path)}</code></h3>'
    yield f"<p><b>{escape(operation['summary'])}.</b> {_told(operation['description'])}</p>"
    if not operation["security"]:
        yield "<p>Needs no key.</p>"
    if operation["parameters"]:
        yield _table(
            ("parameter", "in", ""),
            (
                (f"<code>{escape(item['name'])}</code>", item["in"], _told(item["description"]))
                for item in operation["parameters"]
            ),
        )
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"<h4>Body</h4>{_fields(content['schema'])}{_example(content['example'])}"
    yield "<h4>Answers</h4>"
    for status, answer in operation["responses"].items():
        shown = " open" if status < "3" else ""
        yield f"<details{shown}><summary><b>{status}</b> {_told(answer['description'])}</summary>"
        for kind, content in answer.get("content", {}).items():
            yield f"<p><code>{escape(kind)}</code> {_link(content['schema'])}</p>"
            if "example" in content:
                yield _example(content["example"])
            for example in content.get("examples", {}).values():
                yield _example(example["value"])
        yield "</details>"


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = (
        (
            f"<code>{escape(name)}</code>{'' if name in required else ' (optional)'}",
            _kind(inner),
            _told(inner.get("description", "")),
        )
        for name, inner in schema.get("properties", {}).items()
    )
    return _table(("field", "form", ""), rows)


def _kind(schema: Mapping[str, Any]) -> str:
    """What a value looks like, in a few words."""
    if "$ref" in schema:
        return _link(schema)
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return escape(str(schema.get("format", schema.get("type", "anything"))))


def _link(schema: Mapping[str, Any]) -> str:
    if "oneOf" in schema:
        return " or ".join(_link(option) for option in schema["oneOf"])
    name = escape(str(schema.get("$ref", "")).rpartition("/")[2], quote=True)
    return f'<a href="#schema-{name}">{name}</a>' if name else ""


def _example(example: Any) -> str:
    shown = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
    return f"<pre>{escape(shown)}</pre>"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return ""
    return "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in header) + f"</tr>{body}</table>"


def _told(text: str) -> str:
    """A text of ours, in which backticks mark code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
