"""Receiving events with the client's package: what is signed as Standard Webhooks are is taken, and nothing else."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from standardwebhooks import Webhook

from app.events.outbox import EventType
from talktime import webhooks
from talktime.models import Event
from talktime.webhooks import NotVerified, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
NOW = 1_769_860_812


def document(kind: str = "session.settled", **data: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "type": kind,
        "timestamp": "2026-01-31T12:00:00.500000Z",
        "user_id": "ada",
        "sequence": 7,
        "data": {"user_id": "ada", **data},
    }


SETTLED = document(session_id="ses_1", why="settled", charged="21.571", leakage="0")
BODY = json.dumps(SETTLED, ensure_ascii=False).encode()


def headers(body: bytes = BODY, *secrets: str, at: int = NOW, event_id: str = "evt_1") -> dict[str, str]:
    """As the package of Standard Webhooks signs it."""
    time = datetime.fromtimestamp(at, UTC)
    signed = [Webhook(secret).sign(event_id, time, body.decode()) for secret in secrets or (SECRET,)]
    return {"Webhook-Id": event_id, "webhook-timestamp": str(at), "WEBHOOK-SIGNATURE": " ".join(signed)}


def test_what_the_package_of_standard_webhooks_signs_is_taken() -> None:
    event = verify(BODY, headers(), SECRET, now=NOW)
    assert isinstance(event, webhooks.SessionEvent)
    assert (event.id, event.type, event.user_id, event.sequence) == ("evt_1", "session.settled", "ada", 7)
    assert (event.session_id, event.charged, event.held) == ("ses_1", Decimal("21.571"), None)
    assert event.timestamp == datetime(2026, 1, 31, 12, 0, 0, 500_000, UTC)
    assert event.data["leakage"] == "0"


def test_the_package_of_standard_webhooks_takes_and_refuses_the_same() -> None:
    now = int(datetime.now(UTC).timestamp())
    for at, fits in ((now, True), (now - 200, True), (now - 400, False), (now + 400, False)):
        told = headers(at=at)
        for check in (
            lambda told=told: Webhook(SECRET).verify(BODY, told),
            lambda told=told: verify(BODY, told, SECRET),
        ):
            if fits:
                check()
            else:
                with pytest.raises(Exception, match="too"):
                    check()


@pytest.mark.parametrize(
    ("signed_by", "known"),
    [
        ((SECRET,), (SECRET, OTHER)),
        ((OTHER,), (SECRET, OTHER)),
        ((OTHER, SECRET), (SECRET,)),
        ((SECRET, OTHER), (OTHER,)),
    ],
)
def test_while_a_secret_is_replaced_either_fits(signed_by: tuple[str, ...], known: tuple[str, ...]) -> None:
    assert verify(BODY, headers(BODY, *signed_by), known, now=NOW).id == "evt_1"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"webhook-signature": "v1,AAAA"}, "no signature"),
        ({"webhook-signature": ""}, "no signature"),
        ({"webhook-signature": "v1"}, "no signature"),
        ({"webhook-signature": "v1a," + headers()["WEBHOOK-SIGNATURE"][3:]}, "no signature"),
        ({"webhook-signature": "v2," + headers()["WEBHOOK-SIGNATURE"][3:]}, "no signature"),
        ({"webhook-signature": headers()["WEBHOOK-SIGNATURE"][3:]}, "no signature"),
        ({"webhook-signature": headers()["WEBHOOK-SIGNATURE"].lower()}, "no signature"),
        ({"webhook-signature": headers()["WEBHOOK-SIGNATURE"][:-1]}, "no signature"),
        ({"webhook-signature": "v1,ü\udcff"}, "no signature"),
        ({"webhook-signature": headers(BODY, OTHER)["WEBHOOK-SIGNATURE"]}, "no signature"),
        ({"webhook-id": "evt_2"}, "no signature"),
        ({"webhook-timestamp": str(NOW + 1)}, "no signature"),
        ({"webhook-timestamp": f"{NOW}.0"}, "no Unix time"),
        ({"webhook-timestamp": f" {NOW}"}, "no Unix time"),
        ({"webhook-timestamp": "٣"}, "no Unix time"),
        ({"webhook-timestamp": "9" * 5000}, "no Unix time"),
        ({"webhook-timestamp": ""}, "no Unix time"),
    ],
)
def test_anything_else_is_refused(change: Mapping[str, str], why: str) -> None:
    told = {name.lower(): value for name, value in headers().items()} | dict(change)
    with pytest.raises(NotVerified, match=why):
        verify(BODY, told, SECRET, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_is_missing_is_named(name: str) -> None:
    told = {other: value for other, value in headers().items() if other.lower() != name}
    with pytest.raises(NotVerified, match=name):
        verify(BODY, told, SECRET, now=NOW)


def test_a_body_that_was_changed_is_refused() -> None:
    for body in (BODY + b" ", BODY.replace(b"21.571", b"21.572"), json.dumps(SETTLED, indent=1).encode(), b""):
        with pytest.raises(NotVerified, match="no signature"):
            verify(body, headers(), SECRET, now=NOW)


@pytest.mark.parametrize(("off", "fits"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_what_was_recorded_is_too_old_later(off: int, fits: bool) -> None:
    if fits:
        verify(BODY, headers(), SECRET, now=NOW + off)
        return
    with pytest.raises(NotVerified, match="too far"):
        verify(BODY, headers(), SECRET, now=NOW + off)
    assert verify(BODY, headers(), SECRET, now=NOW + off, tolerance_s=400)


def test_what_is_signed_and_no_event_is_refused() -> None:
    for body, why in ((b"[]", "no object"), (b"{", "no JSON"), (b"{}", "/id is missing")):
        with pytest.raises(NotVerified, match=why):
            verify(body, headers(body), SECRET, now=NOW)
    with pytest.raises(NotVerified, match="not that of the event"):
        verify(BODY, headers(event_id="evt_2"), SECRET, now=NOW)


@pytest.mark.parametrize(
    "secrets", [[], "", "whsec_", "whsec_!", "hunter2hunter2!", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "ü"]]
)
def test_what_is_no_secret_is_a_mistake_and_not_shown(secrets: Any) -> None:
    with pytest.raises(ValueError, match="secret") as refused:
        verify(BODY, headers(), secrets, now=NOW)
    assert "hunter2" not in str(refused.value)


def test_secrets_without_their_padding_fit() -> None:
    bare = "whsec_" + base64.b64encode(b"x" * 25).decode().rstrip("=")
    assert verify(BODY, headers(BODY, bare), bare, now=NOW)


KINDS: list[tuple[str, dict[str, Any], type]] = [
    ("session.started", {"session_id": "ses_1", "held": "60"}, webhooks.SessionEvent),
    ("session.review", {"session_id": "ses_1", "why": "odd"}, webhooks.SessionEvent),
    ("grant.created", {"grant_id": "grt_1", "amount": "100"}, webhooks.GrantEvent),
    ("grant.expiring", {"grant_id": "g", "remaining": "5", "expires_at": "2026-01-31T12:00:00Z"}, webhooks.GrantEvent),
    ("grant.voided", {"grant_id": "grt_1", "voided": "2"}, webhooks.GrantEvent),
    ("balance.low", {"balance": "-1", "level": "low", "threshold": "10"}, webhooks.BalanceEvent),
    ("balance.recovered", {"balance": "20", "level": "ok"}, webhooks.BalanceEvent),
    ("charge.corrected", {"session_id": "ses_1", "correction": "refund", "given_back": "5"}, webhooks.ChargeCorrected),
    ("webhook_endpoint.test", {"endpoint_id": "ep_1"}, webhooks.EndpointEvent),
    ("webhook_endpoint.disabled", {"endpoint_id": "ep_1", "url": "https://x", "why": "gone"}, webhooks.EndpointEvent),
    ("session.dreamed", {"session_id": "ses_1", "of": "sheep"}, webhooks.SessionEvent),
    ("session.odd", {"without": "an id"}, Event),
    ("of.a_later_version", {"type": "is not this"}, Event),
]
PUBLISHED = {"rate_card_id": "rc_1", "name": "evening", "version": 2, "effective_at": "2026-01-31T12:00:00Z"}
KINDS.append(("rate_card.published", PUBLISHED, webhooks.RateCardPublished))


@pytest.mark.parametrize(("kind", "data", "made"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_events_have_the_class_of_their_type(kind: str, data: dict[str, Any], made: type) -> None:
    body = json.dumps(document(kind, **data)).encode()
    event = verify(body, headers(body), SECRET, now=NOW)
    assert type(event) is made
    assert event.type == kind
    assert event.data == {"user_id": "ada", **data}
    for name in data:
        if made is not Event and hasattr(event, name):
            assert getattr(event, name) is not None


def test_every_type_of_event_has_a_class() -> None:
    for kind in EventType:
        assert webhooks._KINDS.keys() & {kind.value, kind.value.partition(".")[0]}, kind
