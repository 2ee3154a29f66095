"""Bad input: a problem document with the right 4xx, nothing changed, nothing dangerous given back, never a 500."""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import httpx
import pytest

from app.http.pages import make_cursor
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import pointers, problem
from tests.support.scripted_provider import ProviderHost
from tests.support.unchanged import unchanged
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

MARK = "evil7marker"
"""Stands in every odd text, so that an answer that gives it back is seen."""

SESSION = {"user_id": '"u"', "persona": '"p"', "scenario": '"s"'}
GRANT = {"amount": '"1"'}
RATES = '{"user":"1","agent":"1","silence":"1"}'
CARD = {"name": '"odd"', "rates": RATES}
SNAPSHOT = '{"requested_at":"2026-01-01T00:00:00Z","received_at":"2026-01-01T00:01:00Z","values":[]}'
PREVIEW = {"requested_at": '"2026-01-01T00:00:00Z"', "snapshots": f"[{SNAPSHOT}]"}

BODIES = {
    "/v1/sessions": SESSION,
    "/api/start_session": SESSION,
    "/v1/users/u/grants": GRANT,
    "/v1/rate-cards": CARD,
    "/v1/charges/preview": PREVIEW,
}
"""Every call that takes a body, with a body that is right."""


def body(fields: dict[str, str], **changed: str) -> bytes:
    """A JSON object of fields whose values are given as JSON."""
    return ("{" + ",".join(f'"{name}":{value}' for name, value in (fields | changed).items()) + "}").encode()


async def post(talktime: World, path: str, content: bytes, **headers: str) -> httpx.Response:
    return await talktime.client.post(path, content=content, headers=headers)


# Keys


HEADERS = [
    None, "", "Bearer", "Bearer ", "Bearer wrong-key", "Basic dGVzdA==", "Token {key}", "{key}", "Bearer {key}x",
    "Bearer x{key}", "Bearer {key} {key}", "Bearer ünïcode", "Bearer \x80\xff", "bearer\t{key}",
]  # fmt: skip
CALLS = [
    ("POST", "/v1/sessions"), ("POST", "/api/start_session"), ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/ses_x"), ("POST", "/v1/sessions/ses_x/reconcile"), ("GET", "/v1/users/u/balance"),
    ("POST", "/v1/users/u/grants"), ("POST", "/v1/rate-cards"), ("POST", "/v1/charges/preview"),
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
async def test_without_a_valid_key_nothing_is_done(talktime: World, header: str | None) -> None:
    key = talktime.settings.bootstrap_admin_key
    assert key is not None
    del talktime.client.headers["Authorization"]
    raw: list[tuple[bytes, bytes]] = []
    if header is not None:
        raw = [(b"authorization", header.replace("{key}", key.get_secret_value()).encode("latin-1"))]
    with unchanged(talktime.service.database.conninfo):
        for method, path in CALLS:
            content = body(BODIES.get(path, {}))
            response = await talktime.client.request(method, path, content=content, headers=raw)
            assert key.get_secret_value() not in response.text
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_only_health_and_the_api_document_are_open(talktime: World) -> None:
    del talktime.client.headers["Authorization"]
    assert (await talktime.client.get("/healthz")).status_code == 200
    assert (await talktime.client.get("/readyz")).status_code in {200, 503}
    assert (await talktime.client.get("/openapi.json")).status_code == 200
    assert (await talktime.client.get("/docs")).status_code == 200
    for path in ("/v1/rate-cards", "/v1/sessions"):
        problem(await talktime.client.get(path), 401, "unauthorized")


# Bodies as a whole

HUGE = "1" + "0" * 5000
NOT_DOCUMENTS = {
    "empty": (b"", "invalid-json"),
    "blank": (b" \n", "invalid-json"),
    "not JSON": (b"{persona: 1}", "invalid-json"),
    "cut off": (b'{"persona": "', "invalid-json"),
    "two documents": (b"{}{}", "invalid-json"),
    "not UTF-8": (b'{"persona":"\xff\xfe"}', "invalid-json"),
    "UTF-16": ('{"persona":"p"}'.encode("utf-16"), "invalid-json"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "invalid-json"),
    "an encoded surrogate": (b'{"persona":"\xed\xa0\x80"}', "invalid-json"),
    "a raw NUL": (b'{"persona":"\x00"}', "invalid-json"),
    "a raw control character": (b'{"persona":"\x07"}', "invalid-json"),
    "deep arrays": (b"[" * 100_000 + b"]" * 100_000, "invalid-json"),
    "deep objects": (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "invalid-json"),
    "rather deep": (b'{"metadata":' + b"[" * 70 + b"]" * 70 + b"}", "invalid-json"),
    "unclosed depth": (b"[" * 500_000, "invalid-json"),
    "a form": (b"persona=p&scenario=s", "invalid-json"),
    "the same name twice": (b'{"amount":"1","amount":"1000","persona":"p","persona":"q"}', "invalid-json"),
    "an array": (b"[]", "invalid-request"),
    "an array of documents": (b'[{"amount":"1"}]', "invalid-request"),
    "null": (b"null", "invalid-request"),
    "true": (b"true", "invalid-request"),
    "a string": (b'"persona"', "invalid-request"),
    "a number": (b"12.5", "invalid-request"),
    "infinity": (b"1e400", "invalid-request"),
    "NaN": (b"NaN", "invalid-request"),
    "a huge integer": (HUGE.encode(), "invalid-request"),
    "an empty object": (b"{}", "invalid-request"),
}


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_no_document_is_refused(talktime: World, path: str) -> None:
    with unchanged(talktime.service.database.conninfo):
        for name, (content, code) in NOT_DOCUMENTS.items():
            response = await post(talktime, path, content, **{"Idempotency-Key": name})
            document = problem(response, 422, code)
            if code == "invalid-json":
                assert pointers(response) == [""], name
            assert len(response.content) < 4_000, name
            assert document["detail"] != "None"


@pytest.mark.parametrize("path", BODIES)
async def test_an_unknown_field_is_refused_and_named(talktime: World, path: str) -> None:
    with unchanged(talktime.service.database.conninfo):
        for field, pointer in {
            "surprise": "/surprise",
            "a/b~c": "/a~1b~0c",
            "": "/",
            "Amount": "/Amount",
            "__proto__": "/__proto__",
        }.items():
            response = await post(talktime, path, body(BODIES[path], **{field: "1"}))
            assert pointers(response) == [pointer]


@pytest.mark.parametrize("path", BODIES)
async def test_an_odd_field_name_is_given_back_harmless_and_short(talktime: World, path: str) -> None:
    for name in ("\\u0000", "\\ud800", "\\u001b[31m", "x" * 100_000, "\\u202e"):
        response = await post(talktime, path, body(BODIES[path], **{name: "1"}))
        problem(response, 422, "invalid-request")
        assert len(response.content) < 2_000
        assert not {"\x00", "\x1b", "\ud800", "\u202e"} & set(response.json()["errors"][0]["pointer"])


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/v1/charges/preview"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused_while_it_streams(talktime: World, path: str, chunked: bool) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1 << 18
            yield b" " * (1 << 18)

    with unchanged(talktime.service.database.conninfo):
        content = endless() if chunked else b" " * ((1 << 20) + 1)
        response = await talktime.client.post(path, content=content)
        problem(response, 413, "body-too-large")
    if chunked:
        assert "content-length" not in response.request.headers
        assert sent < 4 << 20


async def test_many_errors_are_reported_together_and_not_without_end(talktime: World) -> None:
    content = body(GRANT, amount="1", priority="101", **{f"f{n}": "1" for n in range(300)})
    found = pointers(await post(talktime, "/v1/users/u/grants", content))
    assert found[:2] == ["/amount", "/priority"]
    assert len(found) == 50


# Texts

ODD_TEXTS = {
    "empty": '""',
    "too long": f'"{MARK + "x" * 118}"',
    "far too long": f'"{MARK + "x" * 100_000}"',
    "NUL": f'"{MARK}\\u0000"',
    "a bell": f'"{MARK}\\u0007"',
    "a line break": f'"{MARK}\\n"',
    "DEL": f'"{MARK}\\u007f"',
    "a C1 control": f'"{MARK}\\u0085"',
    "a lone high surrogate": f'"{MARK}\\ud800"',
    "a lone low surrogate": f'"\\udc00{MARK}"',
    "a reversed pair": f'"\\udc00\\ud800{MARK}"',
    "an unassigned character": f'"{MARK}\\u0378"',
    "a noncharacter": f'"{MARK}\\uffff"',
    "a private character": f'"{MARK}\\ue000"',
    "a line separator": f'"{MARK}\\u2028"',
    "an override of direction": f'"{MARK}\\u202e"',
    "an isolate": f'"{MARK}\\u2066"',
    "a number": "7",
    "a huge number": HUGE,
    "beyond any float": "1e400",
    "NaN": "NaN",
    "true": "true",
    "an object": f'{{"x":"{MARK}"}}',
    "an array": f'["{MARK}"]',
}


class Field(NamedTuple):
    path: str
    field: str
    null_is_odd: bool


TEXT_FIELDS = [
    Field("/v1/sessions", "user_id", True),
    Field("/v1/sessions", "persona", True),
    Field("/v1/sessions", "scenario", True),
    Field("/v1/sessions", "rate_card", False),
    Field("/api/start_session", "user_id", True),
    Field("/api/start_session", "persona", True),
    Field("/api/start_session", "scenario", True),
    Field("/v1/users/u/grants", "reference", False),
    Field("/v1/users/u/grants", "kind", True),
    Field("/v1/users/u/grants", "effective_at", False),
    Field("/v1/users/u/grants", "expires_at", False),
    Field("/v1/rate-cards", "name", True),
    Field("/v1/rate-cards", "effective_at", False),
]


@pytest.mark.parametrize("field", TEXT_FIELDS, ids=lambda field: f"{field.path} {field.field}")
async def test_an_odd_text_is_refused_at_its_place(talktime: World, field: Field) -> None:
    odd = ODD_TEXTS | ({"null": "null"} if field.null_is_odd else {})
    with unchanged(talktime.service.database.conninfo):
        for name, value in odd.items():
            response = await post(talktime, field.path, body(BODIES[field.path], **{field.field: value}))
            assert pointers(response) == [f"/{field.field}"], name
            assert MARK not in response.text, name
            assert len(response.content) < 1_000, name


async def test_an_odd_text_within_a_match_is_refused_at_its_place(talktime: World) -> None:
    with unchanged(talktime.service.database.conninfo):
        for name, value in ODD_TEXTS.items():
            for part in ("persona", "scenario"):
                response = await post(talktime, "/v1/rate-cards", body(CARD, match=f'{{"{part}":{value}}}'))
                assert pointers(response) == [f"/match/{part}"], name
                assert MARK not in response.text, name


NO_INSTANTS = [
    "today", "2026-01-01", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "2026-01-01T24:00:01Z",
    "2026-13-01T00:00:00Z", "2026-01-01T00:00:60Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00.Z", "infinity", "-infinity",
    "now", "\uff12026-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n", "1767225600",
]  # fmt: skip


async def test_an_instant_that_does_not_exist_is_refused(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    with unchanged(talktime.service.database.conninfo):
        for text in NO_INSTANTS:
            for path, document, name in (
                (f"/v1/users/{user}/grants", GRANT, "effective_at"),
                (f"/v1/users/{user}/grants", GRANT, "expires_at"),
                ("/v1/rate-cards", CARD, "effective_at"),
                ("/v1/charges/preview", PREVIEW, "requested_at"),
            ):
                quoted = '"' + text.replace("\n", "\\n") + '"'
                assert pointers(await post(talktime, path, body(document, **{name: quoted}))) == [f"/{name}"], text
            for path, name in (
                ("/v1/sessions", "started_after"),
                ("/v1/sessions", "started_before"),
                (f"/v1/users/{user}/entries", "after"),
                (f"/v1/users/{user}/entries", "before"),
            ):
                assert pointers(await talktime.client.get(path, params={name: text})) == [f"/{name}"], text


async def test_the_edges_of_time_are_no_accident(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1", effective_at="0001-01-01T00:00:00Z", expires_at="9999-12-31T23:59:59.999999Z")
    (grant,) = (await talktime.get(f"/v1/users/{user}/grants"))["data"]
    assert grant["effective_at"] == "0001-01-01T00:00:00.000000Z"
    assert grant["expires_at"] == "9999-12-31T23:59:59.999999Z"
    assert (await talktime.balance(user))["expiring_next"]["at"] == "9999-12-31T23:59:59.999999Z"


# Money

ODD_AMOUNTS = {
    "a JSON number": "12",
    "a JSON decimal": "12.5",
    "infinity as a number": "1e400",
    "NaN as a number": "NaN",
    "minus infinity": "-Infinity",
    "a huge number": HUGE,
    "true": "true",
    "an object": '{"value":"12"}',
    "an array": '["12"]',
    "empty": '""',
    "blank": '" "',
    "negative": '"-5"',
    "negative, hardly": '"-0.000001"',
    "huge": '"1000000000000.000001"',
    "huger": f'"{HUGE}"',
    "NaN": '"NaN"',
    "infinity": '"Infinity"',
    "scientific": '"1e3"',
    "hexadecimal": '"0x10"',
    "seven decimals": '"0.0000001"',
    "seven decimals, of which one is a nought": '"1.0000000"',
    "thirty decimals": f'"1.{"0" * 29}1"',
    "a comma": '"12,5"',
    "thousands": '"1,000"',
    "an underscore": '"1_000"',
    "a plus": '"+5"',
    "a leading nought": '"05"',
    "no whole part": '".5"',
    "no decimals": '"5."',
    "spaces": '" 5 "',
    "a line break": '"5\\n"',
    "other digits": '"\\uff15"',
    "Arabic digits": '"\\u0665"',
    "NUL": '"5\\u0000"',
    "a currency": '"5 EUR"',
}


async def test_an_odd_amount_of_a_grant_is_refused(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "7")
    before = await talktime.balance(user)
    with unchanged(talktime.service.database.conninfo):
        for name, value in (ODD_AMOUNTS | {"zero": '"0"', "minus zero": '"-0"', "null": "null"}).items():
            response = await post(talktime, f"/v1/users/{user}/grants", body(GRANT, amount=value))
            assert pointers(response) == ["/amount"], name
        for name, value in ODD_AMOUNTS.items():
            response = await post(talktime, f"/v1/users/{user}/grants", body(GRANT, cost_basis=value))
            assert pointers(response) == ["/cost_basis"], name
    assert await talktime.balance(user) == before


async def test_odd_money_on_a_rate_card_is_refused(talktime: World) -> None:
    money = ODD_AMOUNTS | {"null": "null"}
    with unchanged(talktime.service.database.conninfo):
        for name, value in money.items():
            content = body(CARD, rates=RATES.replace('"agent":"1"', f'"agent":{value}'))
            assert pointers(await post(talktime, "/v1/rate-cards", content)) == ["/rates/agent"], name
            for field in ("connection_fee", "minimum_charge"):
                assert pointers(await post(talktime, "/v1/rate-cards", body(CARD, **{field: value}))) == [f"/{field}"]
            content = body(CARD, silence=f'{{"factor_after":{value}}}')
            assert pointers(await post(talktime, "/v1/rate-cards", content)) == ["/silence/factor_after"], name
            for preview_card, at in ((f'{{"name":"x","rates":{{"user":{value}}}}}', "/rate_card/rates/user"),):
                found = pointers(await post(talktime, "/v1/charges/preview", body(PREVIEW, rate_card=preview_card)))
                assert at in found, name
        for name, value in ODD_AMOUNTS.items():
            assert pointers(await post(talktime, "/v1/rate-cards", body(CARD, maximum_charge=value))) == [
                "/maximum_charge"
            ], name


async def test_no_balance_grows_beyond_what_can_be_kept(talktime: World) -> None:
    """Nor do grants that are still to come: a sum that overflows later would stop the account for ever."""
    user = talktime.user()
    given = 0
    for n in range(12):
        terms = {"effective_at": "2026-04-01T00:00:00Z"} if n % 2 else {}
        response = await talktime.client.post(f"/v1/users/{user}/grants", json={"amount": "1000000000000", **terms})
        if response.status_code != 201:
            assert pointers(response) == ["/amount"]
            break
        given += 1
    assert 1 <= given < 10
    talktime.clock.advance(40 * 86_400)
    assert (await talktime.balance(user))["balance"] == f"{given}000000000000"
    session = await talktime.start(user)
    talktime.provider.say(session["provider_session_id"])
    assert (await talktime.settle(session))["state"] == "settled"


# Other values


async def test_an_odd_priority_is_refused(talktime: World) -> None:
    for value in ("-1", "101", "5.0", "1e1", '"5"', "true", "null", HUGE, "1e400", "NaN", "{}"):
        response = await post(talktime, "/v1/users/u/grants", body(GRANT, priority=value))
        assert pointers(response) == ["/priority"], value


DURATIONS = {
    "below the minimum": "29.999999",
    "zero": "0",
    "negative": "-60",
    "a string": '"60"',
    "true": "true",
    "an object": "{}",
    "seven decimals": "60.0000001",
    "more decimals than any context keeps": "60." + "0" * 40 + "1",
    "far too long": "1e9",
    "infinity": "1e400",
    "infinity, written out": "Infinity",
    "NaN": "NaN",
    "a huge number": HUGE,
    "an absurd exponent": "1e99999999999999999999",
    "an absurd negative exponent": "1e-99999999999999999999",
    "hardly anything": "1e-400",
}


@pytest.mark.parametrize("path", ["/v1/sessions", "/api/start_session"])
async def test_an_odd_time_limit_is_refused(talktime: World, path: str) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    with unchanged(talktime.service.database.conninfo):
        for name, value in DURATIONS.items():
            response = await post(talktime, path, body(SESSION, user_id=f'"{user}"', time_limit_s=value))
            assert pointers(response) == ["/time_limit_s"], name
    assert talktime.provider.starts == []


async def test_odd_durations_on_a_rate_card_are_refused(talktime: World) -> None:
    odd = {name: value for name, value in DURATIONS.items() if name not in {"below the minimum", "zero"}}
    with unchanged(talktime.service.database.conninfo):
        for name, value in odd.items():
            for field in ("included_s", "minimum_duration_s", "short_session_exemption_s"):
                assert pointers(await post(talktime, "/v1/rate-cards", body(CARD, **{field: value}))) == [f"/{field}"]
            content = body(CARD, increments=f'{{"initial_s":{value}}}')
            assert pointers(await post(talktime, "/v1/rate-cards", content)) == ["/increments/initial_s"], name


async def test_a_fraction_of_a_second_is_cut_from_a_time_limit(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user, time_limit_s=45.75)
    assert (session["time_limit_s"], session["held"]) == (45, "45")
    assert talktime.provider.starts[0]["time_limit_s"] == 45


ODD_METADATA = [
    "null", "[]", '"x"', "5", "true", '{"a":NaN}', '{"a":1e400}', '{"a":"\\u0000"}', '{"\\u0000":1}',
    '{"a":"\\ud800"}', '{"\\ud800":1}', '{"a":{"b":["\\udfff"]}}', f'{{"a":"{"x" * 9000}"}}', f'{{"a":{HUGE}}}',
]  # fmt: skip


async def test_odd_metadata_is_refused(talktime: World) -> None:
    with unchanged(talktime.service.database.conninfo):
        for value in ODD_METADATA:
            for path in ("/v1/sessions", "/v1/users/u/grants"):
                assert pointers(await post(talktime, path, body(BODIES[path], metadata=value))) == ["/metadata"]


async def test_a_grant_that_ends_before_it_begins_or_has_ended_is_refused(talktime: World) -> None:
    with unchanged(talktime.service.database.conninfo):
        for terms in (
            {"expires_at": "2026-03-01T11:59:59Z"},
            {"expires_at": "2026-03-01T12:00:00Z"},
            {"effective_at": "2026-05-01T00:00:00Z", "expires_at": "2026-05-01T00:00:00Z"},
            {"effective_at": "2026-05-01T00:00:00Z", "expires_at": "2026-04-01T00:00:00Z"},
        ):
            response = await talktime.client.post("/v1/users/u/grants", json={"amount": "1", **terms})
            problem(response, 422, "invalid-request")


async def test_an_odd_idempotency_key_is_refused(talktime: World) -> None:
    with unchanged(talktime.service.database.conninfo):
        for path in ("/v1/sessions", "/api/start_session", "/v1/users/u/grants", "/v1/rate-cards"):
            for key in ("", "x" * 256, "tab\tbed", "ümlaut", "\x7f"):
                raw = [(b"idempotency-key", key.encode("latin-1"))]
                response = await talktime.client.post(path, content=body(BODIES[path]), headers=raw)
                problem(response, 422, "invalid-request")


# Addresses


ODD_LIMITS = ["limit=0", "limit=501", "limit=x", "limit=-1", "limit=1.5", "limit=", "limit=%00",
                                   "limit=1e2", "limit=%D9%A1", "limit=0000000000001", "limit=%2B5"]  # fmt: skip


async def test_an_odd_limit_is_refused_by_every_list(talktime: World) -> None:
    for path in await lists(talktime):
        for query in ODD_LIMITS:
            assert pointers(await talktime.client.get(f"{path}?{query}")) == ["/limit"], (path, query)


async def lists(talktime: World) -> list[str]:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    return [
        "/v1/sessions", f"/v1/users/{user}/entries", f"/v1/users/{user}/grants", "/v1/rate-cards",
        f"/v1/sessions/{session['id']}/heartbeats", f"/v1/sessions/{session['id']}/snapshots",
    ]  # fmt: skip


ODD_CURSORS = [
    "", "x", "null", "%00", "a" * 8_000, "W10", "WzFd%0A", "%FF", "\u00fc",
    *(
        make_cursor(*position)
        for position in (
            (), (1, 2, 3, 4), ("x",), ("x", "y"), (1, "x"), ("\x00",), (1, "\x00"), (1 << 63,), (-(1 << 70), "x"),
            (1 << 63, "00000000-0000-0000-0000-000000000000"), (1 << 63, 1), ("00000000-0000-0000-0000-00000000000",),
            ((1 << 63) - 1, "00000000-0000-0000-0000-000000000000"), ((1 << 63) - 1, 1), (-(1 << 63) + 1, 1),
            (-(1 << 63) + 1, "00000000-0000-0000-0000-000000000000"),
            ((1 << 63) - 1, "rc_00000000000000000000000000"),
        )
    ),
    "W1tdXQ", "W251bGxd", "W3RydWVd", "W05hTl0", "WzFlNDAwXQ", "W3RydWUsMV0",
]  # fmt: skip
"""No text, no JSON, another list's position, and positions that no clock shows."""


async def test_an_odd_cursor_is_refused_or_beyond_the_end(talktime: World) -> None:
    for path in await lists(talktime):
        for cursor in ODD_CURSORS:
            response = await talktime.client.get(f"{path}?cursor={cursor}")
            if cursor == "%FF":
                problem(response, 422, "invalid-request")
            elif response.status_code != 200:
                assert pointers(response) == ["/cursor"], (path, cursor)
            else:
                # A position of the right form beyond either end of the list is none that was given out, but harmless.
                assert response.json()["next_cursor"] is None, (path, cursor)


async def test_a_cursor_of_another_list_is_refused(talktime: World) -> None:
    user = talktime.user()
    for _ in range(2):
        await talktime.grant(user, "100")
        session = await talktime.start(user, time_limit_s=30)
        for _ in range(2):
            await talktime.heartbeat(session)
    own = ["/v1/sessions", f"/v1/users/{user}/entries", f"/v1/users/{user}/grants"]
    own.append(f"/v1/sessions/{session['id']}/heartbeats")
    cursors = {path: (await talktime.get(f"{path}?limit=1"))["next_cursor"] for path in own}
    assert all(cursors.values())
    for path in own:
        for other, cursor in cursors.items():
            response = await talktime.client.get(path, params={"cursor": cursor})
            if other == path:
                assert response.status_code == 200
            else:
                assert pointers(response) == ["/cursor"], (path, other)


async def test_an_unknown_state_or_kind_is_refused(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    for value in ("x", "", "LIVE", "live,over", "%00", "%F0%9F%98%80", "' or 1=1"):
        assert pointers(await talktime.client.get(f"/v1/sessions?state={value}")) == ["/state"]
        assert pointers(await talktime.client.get(f"/v1/users/{user}/entries?kind={value}")) == ["/kind"]


async def test_an_odd_name_or_user_in_a_query_is_refused(talktime: World) -> None:
    for value in ("", "x" * 201, "%00", "%07", "%C2%85", "%E2%80%AE", "%CD%B8"):
        assert pointers(await talktime.client.get(f"/v1/sessions?user_id={value}")) == ["/user_id"]
        assert pointers(await talktime.client.get(f"/v1/rate-cards?name={value}")) == ["/name"]
        for name in ("actor", "action", "target", "request_id", "user_id"):
            assert pointers(await talktime.client.get(f"/v1/audit-log?{name}={value}")) == [f"/{name}"]


async def test_an_id_of_nothing_is_a_404(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = (await talktime.start(user))["id"]
    card = (await talktime.get("/v1/rate-cards?limit=1"))["data"][0]["id"]
    changed = "0" if session[-1] != "0" else "1"
    odd = [
        "x", "ses_", "ses_" + "0" * 52, "ses_" + "z" * 52, "ses_" + "U" * 52, session[:-1], session + "0",
        session.upper(), session.replace("ses_", "grt_"), session[:-1] + changed, card, "%F0%9F%98%80", "%FF",
        "ses_" + "%D9%A0" * 52, "x" * 5_000, "' or 1=1", "%20", "null",
    ]  # fmt: skip
    with unchanged(talktime.service.database.conninfo):
        for text in odd:
            for method, part in (
                ("GET", ""), ("GET", "/charge"), ("GET", "/heartbeats"), ("GET", "/snapshots"), ("POST", "/reconcile"),
                ("POST", "/end"),
            ):  # fmt: skip
                response = await talktime.client.request(method, f"/v1/sessions/{text}{part}")
                assert response.status_code in ({404, 422} if "%FF" in text else {404}), (text, response.text)
                problem(response, response.status_code)
        for text in [*odd[:10], session, "rc_", "rc_" + "0" * 26, "rc_" + "z" * 26, card[:-1], card.upper(), "default"]:
            problem(await talktime.client.get(f"/v1/rate-cards/{text}"), 404, "not-found")


async def test_a_user_never_seen_is_a_404(talktime: World) -> None:
    with unchanged(talktime.service.database.conninfo):
        for part in ("balance", "entries", "grants"):
            problem(await talktime.client.get(f"/v1/users/{talktime.user()}/{part}"), 404, "not-found")


METHODS = {
    "/v1/sessions": {"GET", "POST"},
    "/api/start_session": {"POST"},
    "/v1/sessions/ses_x": {"GET"},
    "/v1/sessions/ses_x/charge": {"GET"},
    "/v1/sessions/ses_x/reconcile": {"POST"},
    "/v1/sessions/ses_x/end": {"POST"},
    "/v1/users/u": {"GET", "PATCH"},
    "/v1/users/u/balance": {"GET"},
    "/v1/users/a%2Fb/grants": {"GET", "POST"},
    "/v1/users/u/adjustments": {"POST"},
    "/v1/grants/grt_x/void": {"POST"},
    "/v1/settings": {"GET", "PATCH"},
    "/v1/rate-cards": {"GET", "POST"},
    "/v1/charges/preview": {"POST"},
    "/healthz": {"GET", "HEAD"},
}


async def test_a_wrong_method_is_a_405_that_says_what_is_allowed(talktime: World) -> None:
    for path, allowed in METHODS.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - allowed:
            response = await talktime.client.request(method, path)
            problem(response, 405, "method-not-allowed")
            assert {name.strip() for name in response.headers["allow"].split(",")} == allowed, path


NO_ADDRESSES = [
    "/", "/v1", "/v1/", "/v2/sessions", "/v1/users/", "/v1/users/a/b/balance", "/v1/sessions/x/y",
    "/webhooks/gabber", "/webhooks",
    "/redoc", "/docs/", "/v1/sessions/", "/v1/users/u/balance/", "//v1/sessions", "/.env",
]  # fmt: skip


async def test_a_stranger_does_not_learn_what_there_is_not(talktime: World) -> None:
    for credentials in ("", "Bearer wrong-key", "Bearer a.b.c"):
        talktime.client.headers["Authorization"] = credentials
        for path in [*METHODS, *NO_ADDRESSES, "/v1/nope", "/v1/%76", "/%761/nope", "/api/nope"]:
            closed = unquote(path).startswith(("/v1/", "/api/"))
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
                response = await talktime.client.request(method, f"http://talktime.example{path}", content=b"{")
                if not closed:
                    assert response.status_code in {200, 404, 405}, (method, path)
                    continue
                assert response.status_code == 401, (method, path)
                if method != "HEAD":
                    problem(response, 401, "unauthorized")
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert "allow" not in response.headers


async def test_what_is_not_there_counts_against_the_same_limits(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    limits: dict[str, Any] = {"caller_max_rps": 1, "failed_auth_max_rpm": 3}
    async with world(databases.urls.service, providers.script(), **limits) as talktime:
        told = [await talktime.client.put("/v1/nope") for _ in range(11)]
        assert [response.status_code for response in told] == [404] * 10 + [429]
        assert all("ratelimit" in response.headers for response in told)
        talktime.client.headers["Authorization"] = ""
        assert [(await talktime.client.get("/v1/nope")).status_code for _ in range(4)] == [401] * 3 + [429]


async def test_an_unknown_address_is_a_404(talktime: World) -> None:
    for path in NO_ADDRESSES:
        problem(await talktime.client.get(f"http://talktime.example{path}"), 404, "not-found")
        problem(await talktime.client.post(f"http://talktime.example{path}", content=b"{"), 404, "not-found")


BROKEN_ADDRESSES = [
    "/v1/users/%zz/grants", "/%", "/v1/users/50%/grants", "/v1/users/%4/grants", "/v1/users/%%/grants",
    "/v1/users/%2x/balance", "/v1/users/a%u0041/balance", "/v1/sessions/%", "/v1/rate-cards/%g0",
    "/v1/sessions?user_id=%", "/v1/sessions?limit=%zz", "/v1/sessions?%=1",
]  # fmt: skip
NOT_UTF_8 = ["/%ff", "/v1/users/%C3/balance", "/v1/sessions?user_id=%FF", "/v1/users/a/balance?%ED%A0%80=1"]
CONTROLS = ["/%00", "/%0A", "/v1/users/a%0Ab/grants", "/v1/users/%C2%85/grants", "/v1/sessions/ses_%0A", "/v1%7F"]


@pytest.mark.parametrize("address", [*BROKEN_ADDRESSES, *NOT_UTF_8, *CONTROLS])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_broken_address_is_refused_and_never_taken_for_another(
    talktime: World, address: str, method: str
) -> None:
    """As a server hands it on: the client of these tests would mend it before."""
    path, _, query = address.partition("?")
    key = talktime.settings.bootstrap_admin_key
    assert key is not None
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
        "method": method, "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(b"host", b"x"), (b"authorization", f"Bearer {key.get_secret_value()}".encode())],
        "server": ("x", 80), "client": ("x", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body(GRANT), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with unchanged(talktime.service.database.conninfo):
        await talktime.service.app(scope, receive, send)
    assert sent[0]["status"] == 422
    document = json.loads(sent[1]["body"])
    assert document["type"] == "/problems/invalid-request"
    part = "query" if query else "path"
    detail = (
        f"the {part} holds a control character" if address in CONTROLS
        else f"the {part} is not UTF-8, percent-encoded" if address in NOT_UTF_8
        else f"a % in the {part} is not followed by two hexadecimal digits"
    )  # fmt: skip
    assert document["errors"] == [{"pointer": f"/{part}", "detail": detail}]


async def test_a_parameter_that_the_call_does_not_know_or_that_stands_twice_is_refused(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = (await talktime.start(user))["id"]
    entries = f"/v1/users/{user}/entries"
    table: list[tuple[str, str, list[str]]] = [
        ("GET", "/v1/sessions?bogus=1", ["/bogus"]),
        ("GET", "/v1/sessions?limit=5&limit=6", ["/limit"]),
        ("GET", "/v1/sessions?limit=5&limit=5", ["/limit"]),
        ("GET", "/v1/sessions?Limit=5&a~b/c=1&=2", ["/Limit", "/a~0b~1c", "/"]),
        ("GET", "/v1/sessions?user_id=a&user_id=b&state=live", ["/user_id"]),
        ("GET", "/v1/sessions?started_before=", ["/started_before"]),
        ("GET", f"{entries}?knd=grant", ["/knd"]),
        ("GET", f"{entries}?kind=grant&kind=charge", ["/kind"]),
        ("GET", f"{entries}?name=x", ["/name"]),
        ("GET", f"/v1/users/{user}/balance?at=now", ["/at"]),
        ("GET", f"/v1/users/{user}/grants?state", ["/state"]),
        ("GET", "/v1/rate-cards?names=x", ["/names"]),
        ("GET", f"/v1/sessions/{session}?x=", ["/x"]),
        ("GET", f"/v1/sessions/{session}/charge?final=1", ["/final"]),
        ("GET", f"/v1/sessions/{session}/snapshots?n=1", ["/n"]),
        ("POST", f"/v1/sessions/{session}/reconcile?now=1", ["/now"]),
        ("POST", f"/v1/users/{user}/grants?amount=1", ["/amount"]),
        ("POST", "/v1/charges/preview?x=1", ["/x"]),
        ("GET", "/v1/sessions?%1B%5B=1", ["/\ufffd["]),
        ("GET", "/v1/sessions?" + "&".join(f"p{n}=" for n in range(60)), [f"/p{n}" for n in range(50)]),
    ]
    with unchanged(talktime.service.database.conninfo):
        for method, address, expected in table:
            content = body(GRANT) if method == "POST" else b""
            response = await talktime.client.request(method, address, content=content)
            assert pointers(response) == expected, address
    del talktime.client.headers["Authorization"]
    problem(await talktime.client.get("/v1/sessions?bogus=1"), 401, "unauthorized")
    assert (await talktime.client.get("/healthz?bogus=1")).status_code == 200


# Users by any name

USERS = [
    "a/b", "a/b/balance", "/first", "last/", "a//b", "grants", "balance/grants", "50%", "%41", "%2F", "who?", "x#y",
    "two words", " ", "a+b", "a&b=c;d", '"quoted"', "it's", "back\\slash", "<script>", "{user_id}", "😀", "👩‍👩‍👧", "é",
    "e\u0301", "Ünïcödé", "用户", "مستخدم", "ﬁ", "fi", "K", "K", "user@example.com", "x" * 128, "😀" * 128, "\ufffd",
]  # fmt: skip


async def test_users_are_told_apart_byte_for_byte(talktime: World) -> None:
    prefix = talktime.user()[:8]
    users = [user if len(user) == 128 else prefix + user for user in USERS] + [user.upper() for user in ("K",)]
    amounts = {}
    for n, user in enumerate(dict.fromkeys(users), 1):
        response = await talktime.client.post(f"/v1/users/{quote(user, safe='')}/grants", json={"amount": str(n)})
        assert response.status_code == 201, user
        assert response.json()["user_id"] == user
        amounts[user] = str(n)
    for user, amount in amounts.items():
        path = f"/v1/users/{quote(user, safe='')}"
        balance = await talktime.get(f"{path}/balance")
        assert (balance["user_id"], balance["balance"]) == (user, amount)
        assert [entry["amount"] for entry in (await talktime.get(f"{path}/entries"))["data"]] == [amount]
        assert [grant["amount"] for grant in (await talktime.get(f"{path}/grants"))["data"]] == [amount]


NOBODY = [
    "%00", "a%00", "%07", "%7F", "%C2%85", "%E2%80%A8", "%E2%80%AE", "%CD%B8", "%EE%80%80", "x" * 129, "%FF",
    "%C3%28", "%ED%A0%80", "%F4%90%80%80", "%C0%AF",
]  # fmt: skip


async def test_a_user_that_nobody_can_be_is_refused(talktime: World) -> None:
    """Bytes that are not UTF-8 must not become one and the same replacement character: those would share a wallet."""
    with unchanged(talktime.service.database.conninfo):
        for user in NOBODY:
            for method, part in (("GET", "balance"), ("GET", "entries"), ("GET", "grants"), ("POST", "grants")):
                response = await talktime.client.request(method, f"/v1/users/{user}/{part}", content=body(GRANT))
                problem(response, 422, "invalid-request")


# What the provider refuses


async def test_an_unknown_persona_is_refused_by_the_provider_and_releases_the_hold(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    before = await talktime.balance(user)
    talktime.provider.start_status = 400
    talktime.provider.start_body = {"type": "invalid_input", "message": "persona not found"}
    response = await talktime.client.post(
        "/v1/sessions", json={"user_id": user, "persona": "nobody", "scenario": "talk"}
    )
    document = problem(response, 422, "persona-not-accepted")
    session = await talktime.get(f"/v1/sessions/{document['session_id']}")
    assert (session["state"], session["held"], session["charged"]) == ("failed", "0", None)
    assert await talktime.balance(user) == before


async def test_nothing_of_what_was_refused_is_left_behind(talktime: World) -> None:
    """The users that the odd documents name were never seen."""
    assert ask(talktime.service.database.conninfo, "select 1 from accounts where user_id in ('u', '')") == []


async def test_sums_hold_after_all_of_it(talktime: World) -> None:
    rows: list[tuple[Any, ...]] = ask(
        talktime.service.database.conninfo,
        "select account_id, entry_id from postings group by account_id, entry_id having sum(amount) <> 0",
    )
    assert rows == []
