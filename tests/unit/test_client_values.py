"""What the client makes of values on their way out and back: no digit is lost, and nothing new breaks it."""

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from talktime import models, parts, problems
from talktime.calls import Answer, Call, checked_base_url, checked_credential, key_of, problem_of, target
from talktime.client import UNSET, Credits, Page, Seconds
from talktime.errors import Conflict, ServerProblem, UnexpectedAnswer
from talktime.values import Misfit, as_credits, as_instant, as_seconds, json_bytes, parsed, read, written


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Decimal("12.500000"), "12.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-6"), "0.000001"),
        (Decimal("1234567890123456789012345678901234.123456"), "1234567890123456789012345678901234.123456"),
        (Decimal("-0.10"), "-0.1"),
        (100, "100"),
        (10**30, "1" + "0" * 30),
        ("12.50", "12.50"),
    ],
)
def test_credits_keep_their_digits(value: Credits, told: str) -> None:
    assert as_credits(value) == told


@pytest.mark.parametrize("value", [0.1, 1.0, True, b"1"])
@pytest.mark.parametrize("form", [as_credits, as_seconds])
def test_what_is_not_exact_is_no_amount(value: Any, form: Any) -> None:
    with pytest.raises(TypeError, match="exact"):
        form(value)


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal("-sNaN")])
def test_what_is_not_finite_is_no_amount(value: Decimal) -> None:
    with pytest.raises(ValueError, match="finite"):
        as_credits(value)


def test_an_amount_of_a_billion_zeros_is_not_written_out() -> None:
    for value in (Decimal("1E+999999"), Decimal("1E-999999")):
        with pytest.raises(ValueError, match="fewer digits"):
            as_credits(value)


def test_instants_are_told_in_utc_and_need_a_zone() -> None:
    there = datetime(2026, 1, 31, 12, 0, 0, 500_001, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))
    assert as_instant(there) == "2026-01-31T17:30:00.500001Z"
    with pytest.raises(ValueError, match="time zone"):
        as_instant(datetime(2026, 1, 31))  # noqa: DTZ001


def test_parts_of_requests_are_written_as_their_types_say() -> None:
    card: parts.RateCardTerms = {
        "name": "mine",
        "rates": {"user": Decimal("1.50"), "agent": 3, "silence": "0.6"},
        "silence": {"full_rate_first_s": None},
        "increments": {"initial_s": Decimal("60.0"), "scope": "type"},
        "included_s": 5,
    }
    told = json_bytes(written(parts.RateCardTerms, card))
    assert told == (
        b'{"name":"mine","rates":{"user":"1.5","agent":"3","silence":"0.6"},"silence":{"full_rate_first_s":null},'
        b'"increments":{"initial_s":60,"scope":"type"},"included_s":5}'
    )
    assert written(str | parts.RateCardTerms, "rc_1") == "rc_1"
    with pytest.raises(TypeError, match="exact"):
        written(parts.RateCardTerms, {"rates": {"user": 1.5}})


def test_every_type_of_a_part_can_be_written() -> None:
    """A kind of value that the generator puts into a part, and nothing here knows, would go out as it stands."""
    known = {str, int, bool, Any, datetime, Credits, Seconds}
    for kind in vars(parts).values():
        if typing.is_typeddict(kind):
            for hint in typing.get_type_hints(kind, include_extras=True).values():
                assert _leaves(hint) - known == set(), (kind, hint)


def _leaves(hint: Any) -> set[Any]:
    if typing.is_typeddict(hint) or hint is type(None) or typing.get_origin(hint) is typing.Literal:
        return set()
    if typing.get_origin(hint) in {typing.Annotated, None}:
        return {hint}
    return set().union(*(_leaves(one) for one in typing.get_args(hint)))


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"a": Decimal("1.10"), "b": [1, None, True, 0.5]}, b'{"a":1.10,"b":[1,null,true,0.5]}'),
        ('\u2028 ü "', '"\u2028 ü \\""'.encode()),
        (Decimal("1E+30"), b"1e+30"),
        (datetime(2026, 1, 31, tzinfo=UTC), b'"2026-01-31T00:00:00.000000Z"'),
        ((), b"[]"),
    ],
)
def test_json_has_the_digits_of_its_numbers(document: Any, told: bytes) -> None:
    assert json_bytes(document) == told
    json.loads(told)


@pytest.mark.parametrize("document", [{1: 2}, {"a": b"1"}, {"a": {1}}, object()])
def test_what_json_cannot_hold_is_refused(document: Any) -> None:
    with pytest.raises(TypeError):
        json_bytes(document)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), Decimal("NaN")])
def test_what_is_no_number_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="no number"):
        json_bytes([number])


GRANT = {
    "id": "grt_1", "user_id": "ada", "kind": "paid", "state": "active", "priority": 50, "amount": "100.000001",
    "remaining": "1", "held": "0", "effective_at": "2026-01-31T12:00:00.500000Z", "expires_at": None,
    "cost_basis": None, "reference": None, "metadata": {}, "created_at": "2026-01-31T13:00:00+01:00",
}  # fmt: skip


def test_what_a_later_version_adds_is_passed_over() -> None:
    later = {**GRANT, "kind": "borrowed", "colour": {"deep": [1.5]}, "state": "frozen"}
    grant = read(models.Grant, parsed(json.dumps(later).encode()))
    assert (grant.kind, grant.state, grant.amount) == ("borrowed", "frozen", Decimal("100.000001"))
    assert grant.created_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    page = read(Page[models.Grant], {"data": [GRANT], "next_cursor": None, "total": 7})
    assert page.data[0].id == "grt_1"


@pytest.mark.parametrize(
    ("member", "value", "where"),
    [
        ("amount", "1,5", "/amount is no decimal number"),
        ("amount", "NaN", "/amount is no decimal number"),
        ("amount", None, "/amount is no decimal number"),
        ("priority", True, "/priority is no whole number"),
        ("priority", Decimal("1.5"), "/priority is no whole number"),
        ("effective_at", "2026-01-31T12:00:00", "/effective_at has no time zone"),
        ("expires_at", 7, "/expires_at is no instant"),
        ("metadata", [], "/metadata is no object"),
        ("id", 7, "/id is no text"),
    ],
)
def test_an_answer_of_another_form_says_where(member: str, value: Any, where: str) -> None:
    with pytest.raises(Misfit, match=where):
        read(models.Grant, {**GRANT, member: value})


def test_a_missing_member_is_told() -> None:
    with pytest.raises(Misfit, match="/id is missing"):
        read(models.Grant, {name: value for name, value in GRANT.items() if name != "id"})
    with pytest.raises(Misfit, match="no object"):
        read(models.Grant, [])


def test_records_cannot_be_changed_and_hold_no_float() -> None:
    grant = read(models.Grant, GRANT)
    with pytest.raises(AttributeError):
        grant.amount = 1
    kinds = [kind for kind in vars(models).values() if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")]
    assert len(kinds) > 40
    for kind in kinds:
        assert float not in typing.get_type_hints(kind).values()
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert fields(kind)


# Addresses


def test_a_part_of_a_path_stays_one_part() -> None:
    template = "/v1/users/{user_id}/balance"
    assert target(template, user_id="a/b?c#d%2F ü") == "/v1/users/a%2Fb%3Fc%23d%252F%20%C3%BC/balance"
    assert target(template, user_id="..") == "/v1/users/%2E%2E/balance"
    assert target(template, user_id=".") == "/v1/users/%2E/balance"
    assert target(template, user_id="{user_id}") == "/v1/users/%7Buser_id%7D/balance"
    assert target("/v1/users", {"q": "a&b=c", "limit": 5, "flag": True, "none": None}) == (
        "/v1/users?q=a%26b%3Dc&limit=5&flag=true"
    )
    with pytest.raises(ValueError, match="user_id must not be empty"):
        target(template, user_id="")
    with pytest.raises(TypeError, match="user_id is a text"):
        target(template, user_id=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://talktime.example", "https://talktime.example"),
        ("https://talktime.example:8443/billing/", "https://talktime.example:8443/billing"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_base_urls(url: str, checked: str) -> None:
    assert checked_base_url(url, allow_http=False) == checked


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "absolute"),
        ("talktime.example", "absolute"),
        ("ftp://talktime.example", "absolute"),
        ("https://", "absolute"),
        ("https://a b", "absolute"),
        ("https://a\n.example", "absolute"),
        ("https://a:70000", "no URL"),
        ("https://[::1", "no URL"),
        ("https://user:word@a.example", "user or password"),
        ("https://a.example?x=1", "query or fragment"),
        ("https://a.example/#x", "query or fragment"),
        ("http://talktime.example", "shows the key"),
        ("http://127.0.0.1.example", "shows the key"),
        ("http://localhost.example", "shows the key"),
    ],
)
def test_base_urls_that_cannot_be_meant(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked_base_url(url, allow_http=False)


def test_http_to_others_is_asked_for_by_name() -> None:
    assert checked_base_url("http://talktime:8000", allow_http=True) == "http://talktime:8000"


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX-Other: 1", "schlüssel", None])
def test_what_is_no_key_is_refused_without_being_shown(key: Any) -> None:
    with pytest.raises(ValueError, match="holds characters") as refused:
        checked_credential(key)
    assert not key or key not in str(refused.value)


def test_idempotency_keys() -> None:
    assert key_of("order 7") == "order 7"
    assert len({key_of(None) for _ in range(100)}) == 100
    for bad in ("", "x" * 256, "a\n", "ü"):
        with pytest.raises(ValueError, match="1 to 255"):
            key_of(bad)


# Problems


CALL: Call[Any] = Call(name="grant", method="POST", target="/v1", key="k", reads=models.Grant)


def answer(status: int, document: Any, kind: str = "application/problem+json", **headers: str) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {"content-type": kind, **headers}, body)


def test_a_code_of_a_later_version_is_of_the_family_of_its_status() -> None:
    document = {"type": "/problems/too-late", "title": "Late", "status": 409, "detail": "came late", "by_s": 7}
    found = problem_of(CALL, answer(409, document, **{"retry-after": "3"}))
    assert type(found) is Conflict
    assert (found.code, found.members["by_s"], found.retry_after, found.idempotency_key) == ("too-late", 7, 3, "k")


def test_a_known_code_whose_members_changed_is_still_told() -> None:
    document = {"type": "/problems/insufficient-credits", "status": 402, "available": "much"}
    found = problem_of(CALL, answer(402, document))
    assert not isinstance(found, UnexpectedAnswer)
    assert (found.code, found.status) == ("insufficient-credits", 402)


def test_every_status_of_a_known_code_is_of_its_family() -> None:
    assert issubclass(problems.ProviderUnconfirmed, ServerProblem)
    assert issubclass(problems.TooManySessions, Conflict)
    assert len(problems.BY_CODE) > 40


@pytest.mark.parametrize(
    "unexpected",
    [
        answer(503, b"<html>", "text/html"),
        answer(500, b"not json"),
        answer(404, [], "application/problem+json"),
        answer(302, b"", "", location="https://evil.example"),
        Answer(304, {}, b""),
    ],
)
def test_what_is_no_answer_of_ours_is_told_apart(unexpected: Answer) -> None:
    found = problem_of(CALL, unexpected)
    assert isinstance(found, UnexpectedAnswer)
    assert (found.status, found.idempotency_key) == (unexpected.status, "k")


@dataclass(frozen=True)
class _Odd:
    value: set[int]


def test_a_type_that_no_answer_has_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="no type of an answer"):
        read(_Odd, {"value": []})
    assert read(Mapping[str, Decimal], {"a": "1.5"}) == {"a": Decimal("1.5")}
    assert repr(UNSET) == "UNSET"
