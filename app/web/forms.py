"""Forms as browsers send them, and their fields: what a person types becomes the document that the API takes.

So a page and a call refuse the same things in the same words, and an error stands beside the field that it is about.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from app.core.lossless_json import JsonNumber
from app.errors import Problem, invalid
from app.http.bodies import read_bounded

MAX_FORM: Final = 64 * 1024
MAX_FIELDS: Final = 200

_LOCAL: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)?")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,18})?")


class Kind(StrEnum):
    """How a field is typed, and what it becomes."""

    TEXT = "text"
    LONG_TEXT = "textarea"
    CREDITS = "credits"
    NUMBER = "number"
    MOMENT = "moment"
    CHOICE = "choice"
    CHOICES = "choices"
    FLAG = "flag"
    PASSWORD = "password"  # noqa: S105 - how it is typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a form. ``name`` is that of the document's field, with dots for what lies deeper.

    ``clears``: an empty field means null, and not that it was left out.
    """

    name: str
    label: str
    kind: Kind = Kind.TEXT
    required: bool = False
    hint: str = ""
    choices: Sequence[tuple[str, str]] = ()
    default: str = ""
    clears: bool = False

    @property
    def pointer(self) -> str:
        return "/" + self.name.replace(".", "/")

    def value(self, typed: Sequence[str]) -> Any:
        """What a document holds for it; null if nothing was typed."""
        text = typed[0].strip() if typed else ""
        match self.kind:
            case Kind.CHOICES:
                return list(typed)
            case Kind.FLAG:
                return bool(typed)
            case Kind.PASSWORD:
                return typed[0] if typed else None
            case _ if not text:
                return None
            case Kind.NUMBER:
                # What is no number stays text, for which the document has its words.
                return JsonNumber(text) if _NUMBER.fullmatch(text) else text
            case Kind.MOMENT:
                return as_moment(text)
            case Kind.LONG_TEXT:
                return " ".join(text.split())
            case _:
                return text


def as_moment(text: str) -> str | None:
    """What a browser's field for dates and times gives, which knows no zone, is taken as UTC; null if it is empty."""
    if not text:
        return None
    if not _LOCAL.fullmatch(text):
        return text
    day, _, time = text.replace(" ", "T").partition("T")
    return f"{day}T{(time + ':00' if time.count(':') == 1 else time) or '00:00:00'}Z"


class Form:
    """What was sent: the values of each name, in order."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str, default: str = "") -> str:
        """The first value of a name."""
        return self._values.get(name, [default])[0]

    def document(self, fields: Sequence[Field]) -> dict[str, Any]:
        """The document that was typed: fields left empty are absent from it, unless that ``clears`` them."""
        document: dict[str, Any] = {}
        for field in fields:
            value = field.value(self.all(field.name))
            if value is None and not field.clears:
                continue
            *path, last = field.name.split(".")
            inner = document
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        return document

    def typed(self, fields: Sequence[Field]) -> dict[str, list[str]]:
        """What was typed, to be shown again; passwords are typed again."""
        return {field.name: [] if field.kind is Kind.PASSWORD else self.all(field.name) for field in fields}


async def read_form(request: Request) -> Form:
    """The request's form. Raises a :class:`~app.errors.Problem`: 413, 422 if it is none."""
    body = await read_bounded(request, MAX_FORM)
    try:
        pairs = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise invalid("", "is not a form in UTF-8") from None
    return Form((name, value.replace("\r\n", "\n")) for name, value in pairs)


def errors_by_field(problem: Problem, fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """What is wrong beside which field, and what is wrong besides."""
    by_field: dict[str, str] = {}
    others: list[str] = []
    for error in problem.errors:
        field = next((one for one in fields if _is_at(error.pointer, one.pointer)), None)
        within = [one.name for one in fields if one.required and one.pointer.startswith(error.pointer + "/")]
        if field is None and error.pointer and within:
            by_field.update({name: error.detail for name in within if name not in by_field})
        elif field is None:
            others.append(f"{error.pointer.strip('/')}: {error.detail}" if error.pointer else error.detail)
        else:
            by_field.setdefault(field.name, error.detail)
    return by_field, others if problem.errors else [problem.detail]


def _is_at(pointer: str, field: str) -> bool:
    return pointer == field or pointer.startswith(field + "/")


def defaults(fields: Sequence[Field], given: Mapping[str, str]) -> dict[str, list[str]]:
    """What stands in a form before anything was typed; ``given``: by the address or from what is there now."""
    found: dict[str, list[str]] = {}
    for field in fields:
        value = given.get(field.name, field.default)
        # Several that are chosen stand side by side.
        found[field.name] = value.split() if field.kind is Kind.CHOICES else [value] if value else []
    return found


def flat(document: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The document with dots for what lies deeper, as fields are named."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found
