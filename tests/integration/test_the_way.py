"""Grant, start, heartbeats, timeline, charge, ledger, balance: the whole way, once for each kind of session."""

from xml.etree import ElementTree

import pytest

from app.core.units import US_PER_S
from tests.support.problems import problem
from tests.support.world import World

pytestmark = pytest.mark.anyio

GUIDE = (
    ("user", "0.265"), ("silence", "1.513"), ("agent", "1.634"), ("silence", "3.683"), ("user", "1.82"),
    ("silence", "0.079"), ("user", "1.042"), ("silence", "0.906"), ("agent", "0.132"), ("silence", "0.996"),
    ("agent", "4.501"),
)  # fmt: skip


async def test_a_talk_is_charged_once_and_explained(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    assert session["state"] == "live"
    assert session["time_limit_s"] == 100
    assert session["held"] == "100"
    assert talktime.provider.starts[0]["webhook"].startswith("http://talktime.example/webhooks/gabber/")
    assert (await talktime.balance(user))["available"] == "0"

    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20), ("user", 5))
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)

    assert settled["state"] == "settled"
    assert settled["heartbeat_count"] == 2
    # agent 10 s, at most 5 s of the silence, user 5 s
    assert settled["charged"] == "20"
    assert settled["held"] == "0"
    balance = await talktime.balance(user)
    assert (balance["balance"], balance["held"], balance["available"]) == ("80", "0", "80")
    entries = (await talktime.get(f"/v1/users/{user}/entries"))["data"]
    assert [(entry["kind"], entry["amount"], entry["balance_after"]) for entry in entries] == [
        ("charge", "-20", "80"),
        ("grant", "100", "100"),
    ]
    assert entries[0]["session_id"] == session["id"]
    assert [line["amount"] for line in entries[0]["funding"]] == ["20"]
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["amount"] == "20"
    assert charge["final"] is True
    assert charge["entry_id"] == entries[0]["id"]


async def test_the_guides_example_pulled_nine_days_later_costs_its_speech_and_inner_silence(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    session = await talktime.start(user)
    talktime.clock.advance(763_454.513 + 16.571)
    talktime.provider.say(session["provider_session_id"], *GUIDE, ("silence", "763454.513"))
    await talktime.reconcile()
    settled = await talktime.get(f"/v1/sessions/{session['id']}")
    assert (settled["state"], settled["charged"]) == ("settled", "16.571")
    charge = await talktime.get(f"/v1/sessions/{session['id']}/charge")
    assert charge["billed"] == {
        "user_s": 3.127, "agent_s": 6.267, "silence_s": 7.177, "reduced_rate_s": 0, "total_s": 16.571,
    }  # fmt: skip
    assert sum(charge["not_billed"].values()) == 763454.513
    assert (await talktime.balance(user))["balance"] == "83.429"


async def test_a_session_is_over_only_when_proof_of_life_ends(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    for _ in range(5):
        talktime.provider.say(session["provider_session_id"], ("agent", 10))
        await talktime.heartbeats_until(session, 60)
        await talktime.reconcile()
        assert (await talktime.get(f"/v1/sessions/{session['id']}"))["state"] == "live"
    last_heartbeat = talktime.clock.now()
    settled = await talktime.settle(session)
    assert settled["state"] == "settled"
    assert talktime.clock.now() - last_heartbeat >= (75 + 120) * US_PER_S


async def test_a_charge_can_be_had_as_a_picture(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user)
    path = f"/v1/sessions/{session['id']}/charge"
    wants = {"Accept": "image/svg+xml"}
    before = await talktime.client.get(path, headers=wants)
    assert (before.status_code, "0 credits" in before.text, "· live" in before.text) == (200, True, True)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("silence", 20))
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)
    response = await talktime.client.get(path, headers=wants)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/svg+xml")
    assert response.headers["vary"] == "Accept"
    assert response.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline';")
    root = ElementTree.fromstring(response.text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert f"{settled['charged']} credits charged; the session is settled." in response.text
    as_json = await talktime.client.get(path, headers={"Accept": "application/json"})
    assert (as_json.json()["amount"], as_json.headers["vary"]) == (settled["charged"], "Accept")
    problem(await talktime.client.get("/v1/sessions/ses_x/charge", headers=wants), 404, "not-found")
