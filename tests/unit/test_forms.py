"""What is typed becomes the document that the API takes."""

from typing import Any

import pytest

from app.documents import Document, validate
from app.errors import Problem, invalid
from app.web.forms import Field, Form, Kind, defaults, errors_by_field


def value(kind: Kind, *typed: str) -> Any:
    return Field(name="x", label="X", kind=kind).value(typed)


@pytest.mark.parametrize(
    ("kind", "typed", "becomes"),
    [
        (Kind.TEXT, [" a "], "a"),
        (Kind.TEXT, ["  "], None),
        (Kind.TEXT, [], None),
        (Kind.LONG_TEXT, ["a\nb   c"], "a b c"),
        (Kind.CREDITS, ["12.5"], "12.5"),
        (Kind.CREDITS, ["twelve"], "twelve"),
        (Kind.NUMBER, ["30"], "30"),
        (Kind.NUMBER, ["1e3"], "1e3"),
        (Kind.MOMENT, ["2026-01-31 12:00"], "2026-01-31T12:00:00Z"),
        (Kind.MOMENT, ["2026-01-31T12:00:05.25"], "2026-01-31T12:00:05.25Z"),
        (Kind.MOMENT, ["2026-01-31"], "2026-01-31T00:00:00Z"),
        (Kind.MOMENT, ["2026-01-31T12:00:00+02:00"], "2026-01-31T12:00:00+02:00"),
        (Kind.MOMENT, ["tomorrow"], "tomorrow"),
        (Kind.FLAG, ["yes"], True),
        (Kind.FLAG, [], False),
        (Kind.CHOICES, ["a", "b"], ["a", "b"]),
        (Kind.PASSWORD, [" kept as it is "], " kept as it is "),
    ],
)
def test_a_field(kind: Kind, typed: list[str], becomes: object) -> None:
    assert value(kind, *typed) == becomes


def test_only_what_is_a_number_becomes_one() -> None:
    assert type(value(Kind.NUMBER, "30")) is not str
    assert type(value(Kind.NUMBER, "0x1f")) is str
    assert type(value(Kind.CREDITS, "30")) is str


FIELDS = (
    Field(name="amount", label="Amount", kind=Kind.CREDITS),
    Field(name="limits.day", label="A day", kind=Kind.CREDITS, clears=True),
    Field(name="note", label="Note"),
)


def test_dots_lead_deeper_and_what_clears_is_null() -> None:
    form = Form([("amount", "5"), ("limits.day", ""), ("note", "")])
    assert form.document(FIELDS) == {"amount": "5", "limits": {"day": None}}
    assert Form([("limits.day", "7")]).document(FIELDS) == {"limits": {"day": "7"}}


def test_an_error_stands_beside_its_field() -> None:
    by_field, others = errors_by_field(invalid("/limits/day", "must not be negative"), FIELDS)
    assert (by_field, others) == ({"limits.day": "must not be negative"}, [])
    by_field, others = errors_by_field(invalid("/else", "is odd"), FIELDS)
    assert (by_field, others) == ({}, ["else: is odd"])


class Empty(Document):
    pass


def test_what_the_document_does_not_know_is_told_besides() -> None:
    with pytest.raises(Problem) as raised:
        validate(Empty, {"amount": "1", "other": "2"})
    by_field, others = errors_by_field(raised.value, FIELDS)
    assert set(by_field) == {"amount"}
    assert others == ["other: is not a field of this document"]


def test_defaults_and_what_was_typed() -> None:
    assert defaults(FIELDS, {"note": "n"}) == {"amount": [], "limits.day": [], "note": ["n"]}
    password = Field(name="p", label="P", kind=Kind.PASSWORD)
    assert Form([("p", "secret")]).typed([password]) == {"p": []}
