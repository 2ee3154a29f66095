"""``python -m tools.reference``: writes docs/client-reference.md from docstrings and signatures of ``talktime/``."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.document import api_document, operations

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "talktime"
FILE: Final = "docs/client-reference.md"
_WIDTH: Final = 118
_HEAD: Final = """# The Python client: reference

Written by `make client` from the docstrings and signatures of [`talktime/`](../talktime); how to use it is told in
[the guide](client.md), what each call does in [api](api.md). `AsyncTalktime` has the same methods with the same
arguments: those that answer a record are awaited, lists are gone through with `async for`, streams opened with
`async with`.

`Credits` is `Decimal | int | str` (a decimal text), `Seconds` is `Decimal | int`; what comes back is `Decimal`. `Unset`
arguments are not sent. Every call may raise [what is told below](#errors).
"""


def main() -> None:
    (ROOT / FILE).write_text(reference(), encoding="utf-8")


def reference() -> str:
    """The text of the reference."""
    sections = [
        _HEAD,
        "## Clients\n",
        *_classes("client", ["Talktime"]),
        *_methods("transport", "SyncCaller", ["with_options", "close"]),
        *_classes("retries", ["RetryPolicy", "Retry"]),
        *_classes("transport", ["Listing", "Page"]),
        *_classes("streams", ["Lines", "Events", "ServerSentEvent"]),
        "## Calls\n",
        *_calls(),
        "## Errors\n",
        _module("errors"),
        *_classes("errors"),
        "### Problems\n\nIn `talktime.problems`, one class for each code.\n",
        _problems(),
        "## Events\n",
        _module("webhooks"),
        *_functions("webhooks"),
        *_classes("webhooks"),
        "## What calls answer\n",
        _module("models"),
        *_classes("models"),
        "## Parts of requests\n",
        _module("parts"),
        *_classes("parts"),
    ]
    return "\n".join(section.rstrip("\n") + "\n" for section in sections)


# What stands in a module


def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def _module(name: str) -> str:
    return markdown(ast.get_docstring(_tree(name)) or "")


def _classes(module: str, names: list[str] | None = None) -> Iterator[str]:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and (names is None or node.name in names):
            yield _class(node)


def _class(node: ast.ClassDef) -> str:
    bases = [ast.unparse(base) for base in node.bases]
    parents = ", ".join(f"`{base}`" for base in bases if base not in {"TypedDict", "Exception", "SyncCalls"})
    parts = [f"### `{node.name}`\n"]
    if parents:
        parts.append(f"Also a {parents}.\n" if "Generic" not in parents else "")
    parts.append(markdown(ast.get_docstring(node) or ""))
    made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if made is not None and node.name == "Talktime":
        parts.append(_signature(node.name, made, result=False))
    parts.append(_fields(node))
    if node.name == "Listing":
        parts += [_method(one) for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "pages"]
    return "\n".join(part for part in parts if part)


def _fields(node: ast.ClassDef) -> str:
    rows = []
    for number, one in enumerate(node.body):
        if not isinstance(one, ast.AnnAssign) or "ClassVar" in ast.unparse(one.annotation):
            continue
        after = node.body[number + 1] if number + 1 < len(node.body) else None
        told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        kind = ast.unparse(one.annotation).replace("|", "\\|")
        default = f" = {ast.unparse(one.value)}" if one.value is not None and "(" not in ast.unparse(one.value) else ""
        rows.append(f"| `{ast.unparse(one.target)}` | `{kind}{default}` | {inline(str(told))} |")
    return "\n".join(["| | | |", "|---|---|---|", *rows, ""]) if rows else ""


def _functions(module: str) -> Iterator[str]:
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield _method(node)


def _methods(module: str, of: str, names: list[str]) -> Iterator[str]:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == of:
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name in names:
                    yield _method(one)


def _method(node: ast.FunctionDef) -> str:
    return f"### `{node.name}`\n\n{_signature(node.name, node)}\n{markdown(ast.get_docstring(node) or '')}"


def _signature(name: str, node: ast.FunctionDef, *, result: bool = True) -> str:
    arguments = re.sub(r"^self(, )?", "", ast.unparse(node.args))
    arguments = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if result and node.returns is not None else ""
    line = f"{name}({arguments}){returns}"
    if len(line) > _WIDTH:
        told = [one for one in _split(arguments) if one]
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in told) + f"){returns}"
    return f"```python\n{line}\n```\n"


def _split(arguments: str) -> list[str]:
    """At commas that stand in no bracket."""
    found, depth = [""], 0
    for letter in arguments:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


# Calls and problems


def _calls() -> Iterator[str]:
    (client,) = [node for node in _tree("sync_calls").body if isinstance(node, ast.ClassDef)]
    methods = [node for node in client.body if isinstance(node, ast.FunctionDef)]
    tag = ""
    asked = list(operations(api_document()))
    tags = list(dict.fromkeys(one.tag for one in asked))
    for one in sorted(asked, key=lambda one: tags.index(one.tag)):
        if one.tag != tag:
            tag = one.tag
            yield f"**{tag.capitalize()}**\n"
        for node in methods:
            if re.fullmatch(rf"{one.name}(_csv|_events|_svg)?", node.name):
                yield _method(node)


def _problems() -> str:
    rows = ["| class | code, status | |", "|---|---|---|"]
    for node in _tree("problems").body:
        if isinstance(node, ast.ClassDef):
            code, _, told = inline(ast.get_docstring(node) or "").partition(": ")
            own = [
                f"`{ast.unparse(one.target)}`"
                for one in node.body
                if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) != "of_code"
            ]
            more = f" Also {', '.join(own)}." if own else ""
            family = ast.unparse(node.bases[0])
            rows.append(f"| `{node.name}` (`{family}`) | {code} | {told}{more} |")
    return "\n".join(rows) + "\n"


# Docstrings as Markdown


def inline(text: str) -> str:
    """A text on one line."""
    named = re.sub(r":(?:class|func|mod|data|meth):`~?([^`]+)`", lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return " ".join(re.sub(r"``([^`]+)``", r"`\1`", named).split())


def markdown(docstring: str) -> str:
    """Paragraphs, lists, and blocks that follow two colons."""
    parts: list[str] = []
    for block in re.split(r"\n{2,}", docstring):
        if block.startswith("    ") or (parts and parts[-1].endswith("```text\n")):
            parts.append(f"```text\n{textwrap.dedent(block)}\n```\n")
        elif block.startswith("- "):
            parts.append("\n".join(f"- {inline(item)}" for item in block[2:].split("\n- ")) + "\n")
        else:
            told = inline(block)
            told = told[:-1] if told.endswith("::") else told
            if told.strip(":"):
                parts.append(textwrap.fill(told, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n")
    return re.sub(r"\n```\n\n```text\n", "\n\n", "\n".join(parts))


if __name__ == "__main__":
    main()
