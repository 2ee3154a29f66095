"""Lists of any length: each page is read from an index at its place, and the next page follows the one before."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from app.core.ids import NIL_ACCOUNT
from app.core.units import US_PER_DAY, Instant, datetime_of, parse_instant
from app.http.pages import make_cursor
from tests.integration.test_sign_in import browser, sign_in
from tests.support.plans import asked, plan_of
from tests.support.world import ADMIN_KEY, World

pytestmark = pytest.mark.anyio

SESSIONS, EVENTS, AUDIT = "/v1/sessions", "/admin/events", "/v1/audit-log"
CURSOR = "a cursor of the list"
EARLIER, LATER = "an instant that is past", "an instant to come"


@pytest.fixture
async def admin(talktime: World) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        yield client


@pytest.mark.parametrize(
    ("path", "given", "index"),
    [
        (SESSIONS, {}, "sessions_requested_at_idx"),
        (SESSIONS, {"state": "failed"}, "sessions_state_idx"),
        (SESSIONS, {"user_id": "ada"}, "sessions_account_requested_at_idx"),
        (SESSIONS, {"started_after": EARLIER}, "sessions_started_at_idx"),
        (SESSIONS, {"started_before": LATER}, "sessions_started_at_idx"),
        (SESSIONS, {"started_before": LATER, "user_id": "ada"}, "sessions_account_started_at_idx"),
        (SESSIONS, {"started_before": LATER, "state": "failed"}, "sessions_state_started_at_idx"),
        ("/admin/reviews", {}, "sessions_state_idx"),
        (EVENTS, {}, "events_created_at_idx"),
        (EVENTS, {"type": "grant.voided"}, "events_type_idx"),
        (AUDIT, {}, "audit_log_at_idx"),
        (AUDIT, {"before": LATER}, "audit_log_at_idx"),
        (AUDIT, {"actor": "admin:nora"}, "audit_log_actor_idx"),
        (AUDIT, {"actor": "admin:nora", "before": LATER}, "audit_log_actor_idx"),
        (AUDIT, {"action": "session.write_off"}, "audit_log_action_idx"),
        (AUDIT, {"target": "ses_1"}, "audit_log_target_idx"),
        (AUDIT, {"request_id": "req-1"}, "audit_log_request_idx"),
    ],
)
async def test_a_page_begins_at_its_place_in_an_index(
    talktime: World, admin: httpx.AsyncClient, path: str, given: dict[str, str], index: str
) -> None:
    """And not at the list's beginning, with all that lies before it read and dropped."""
    now = talktime.clock.now()
    instants = {EARLIER: now - US_PER_DAY, LATER: now + US_PER_DAY}
    filters = {
        name: datetime_of(Instant(instants[value])).isoformat() if value in instants else value
        for name, value in given.items()
    }
    cursor = make_cursor(now, str(NIL_ACCOUNT))
    client = talktime.client if path.startswith("/v1/") else admin
    for with_cursor in (False, True):
        asking = {**filters, **({"cursor": cursor} if with_cursor else {})}
        with asked(talktime) as statements:
            response = await client.get(f"{path}?{urlencode(asking)}")
        assert response.status_code == 200, response.text
        (listed,) = [one for one in statements if "LIMIT" in one[0] and "ORDER BY" in one[0]]
        plan = plan_of(talktime, *listed)
        assert index in plan
        assert "Sort" not in plan
        if with_cursor:
            (condition,) = [line for line in plan.splitlines() if "ROW(" in line]
            assert "Index Cond:" in condition
            assert condition.count("<") + condition.count(">") == 1 + (EARLIER in given.values()), condition


@pytest.mark.parametrize("kind", ["void", "charge"])
async def test_entries_of_a_kind_are_read_from_an_index(talktime: World, kind: str) -> None:
    user_id = talktime.user()
    await talktime.grant(user_id, "5")
    with asked(talktime) as statements:
        await talktime.get(f"/v1/users/{user_id}/entries?kind={kind}&cursor={make_cursor(7)}")
    (listed,) = [one for one in statements if "LIMIT" in one[0]]
    plan = plan_of(talktime, *listed)
    assert "entries_kind_idx" in plan
    assert "Sort" not in plan


async def test_the_users_in_debt_are_read_from_an_index(talktime: World, admin: httpx.AsyncClient) -> None:
    talktime.clock.advance(6)
    with asked(talktime) as statements:
        await admin.get("/admin/figures")
    (owed,) = [one for one in statements if "accounts.debt" in one[0]]
    assert "accounts_debt_idx" in plan_of(talktime, *owed)


async def test_heartbeats_of_many_sessions_are_found_by_their_keys(talktime: World) -> None:
    user_id = talktime.user()
    await talktime.grant(user_id, "500")
    for _ in range(3):
        await talktime.heartbeat(await talktime.start(user_id, time_limit_s=60))
    with asked(talktime) as statements:
        await talktime.get(f"/v1/sessions?user_id={user_id}")
    (heard,) = [one for one in statements if "FROM ticks" in one[0]]
    plan = plan_of(talktime, *heard)
    lookups = [line for line in plan.splitlines() if "Index Cond:" in line]
    assert lookups
    assert all("account_id" in line and "session_id" in line for line in lookups), plan


async def walked(client: httpx.AsyncClient, path: str, ids: Any) -> list[str]:
    """The ids of all pages of a list of the admin's."""
    found: list[str] = []
    address: str | None = path
    while address is not None:
        page = await client.get(address)
        assert page.status_code == 200, page.text
        found += ids(page.text)
        following = page.text.partition('rel="next" href="')[2].partition('"')[0]
        address = following.replace("&amp;", "&") or None
    return found


async def test_events_go_on_behind_the_first_page(talktime: World, admin: httpx.AsyncClient) -> None:
    user_id = talktime.user()
    for _ in range(60):
        await talktime.grant(user_id, "1")
    shown = await walked(
        admin, f"/admin/events?user_id={user_id}&type=grant.created", lambda text: text.split('<tr id="evt_')[1:]
    )
    assert len(shown) == 60 == len({row[:52] for row in shown})


async def test_reviews_go_on_behind_the_first_page(talktime: World, admin: httpx.AsyncClient) -> None:
    user_id = talktime.user()
    await talktime.grant(user_id, "100")
    started = await talktime.start(user_id, time_limit_s=60)
    talktime.provider.say(started["provider_session_id"], ("user", 5), ("agent", 4_000))
    await talktime.heartbeats_until(started, 60)
    review = await talktime.settle(started)
    assert review["state"] == "review"
    asked_for = parse_instant(review["requested_at"])
    for behind, shown in ((asked_for - 1, True), (asked_for + 1, False)):
        page = await admin.get(f"/admin/reviews?cursor={make_cursor(behind, str(NIL_ACCOUNT))}")
        assert page.status_code == 200
        assert (review["id"] in page.text) is shown


async def test_sessions_of_a_period_come_in_the_order_of_their_starts(talktime: World) -> None:
    user_id = talktime.user()
    await talktime.grant(user_id, "500")
    late = await talktime.start_unconfirmed(user_id, time_limit_s=60)
    talktime.clock.advance(5)
    first = talktime.clock.now()
    early = await talktime.start(user_id, time_limit_s=60)
    talktime.clock.advance(5)
    assert (await talktime.heartbeat({**late, "provider_session_id": f"gab-{user_id}"})).status_code == 204
    talktime.clock.advance(5)
    unfiltered = await talktime.get(f"/v1/sessions?user_id={user_id}")
    assert [session["id"] for session in unfiltered["data"]] == [early["id"], late["id"]]
    found: list[str] = []
    asking = {"user_id": user_id, "limit": "1", "started_after": datetime_of(first).isoformat()}
    for _ in range(2):
        page = await talktime.get("/v1/sessions?" + urlencode(asking))
        found += [session["id"] for session in page["data"]]
        asking["cursor"] = page["next_cursor"]
    assert found == [late["id"], early["id"]]
    assert page["next_cursor"] is None
    upto = {"user_id": user_id, "started_before": datetime_of(Instant(first + 1)).isoformat()}
    page = await talktime.get("/v1/sessions?" + urlencode(upto))
    assert [session["id"] for session in page["data"]] == [early["id"]], json.dumps(page)
