"""Grants that come again each period: each once, as of its time, whatever was missed meanwhile."""

import asyncio
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from app.accounts.recurring import AT_ONCE, LEAD, MAX_RECURRING, post_recurring
from app.core.units import US_PER_DAY, US_PER_S, Instant, datetime_of, format_instant, instant_of, parse_instant
from app.ledger.due import post_due
from tests.support.postgres import ask, tell
from tests.support.problems import problem
from tests.support.unchanged import unchanged
from tests.support.world import World

pytestmark = pytest.mark.anyio

WHY = {"reason": "a test"}


async def make(talktime: World, user: str, amount: str = "100", **terms: Any) -> dict[str, Any]:
    body = {"amount": amount, "period": "day", **terms}
    response = await talktime.client.post(f"/v1/users/{user}/recurring-grants", json=body)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def change(talktime: World, series: dict[str, Any], verb: str) -> dict[str, Any]:
    response = await talktime.client.post(f"/v1/recurring-grants/{series['id']}/{verb}", json=WHY)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def work(talktime: World) -> None:
    """What the workers do, without waiting for their turn."""
    service, now = talktime.service, talktime.clock.now()
    await post_recurring(service.database, service.ledger, now)
    await post_due(service.database, service.ledger, now)


async def at(talktime: World, *instants: str | Instant) -> None:
    """Let the workers do what they do, at these instants one after the other."""
    for instant in instants:
        talktime.clock.set(parse_instant(instant) if isinstance(instant, str) else instant)
        await work(talktime)


async def days(talktime: World, number: int, *, beside: int = 0) -> None:
    for _ in range(number):
        await at(talktime, Instant(talktime.clock.now() + US_PER_DAY + beside))


async def grants(talktime: World, user: str) -> list[dict[str, Any]]:
    """Oldest first."""
    found = (await talktime.get(f"/v1/users/{user}/grants?limit=500"))["data"]
    return sorted(found, key=lambda grant: str(grant["effective_at"]))


async def balance(talktime: World, user: str) -> str:
    return str((await talktime.balance(user))["balance"])


async def test_what_is_left_expires_when_the_next_period_begins(talktime: World) -> None:
    user = talktime.user()
    made = await make(talktime, user, metadata={"plan": "gold"}, cost_basis="0.05", priority=7)
    assert (made["state"], made["given"], made["skipped"]) == ("active", 1, 0)
    assert parse_instant(made["next_at"]) == talktime.clock.now() + US_PER_DAY
    assert await balance(talktime, user) == "100"
    await talktime.client.post(f"/v1/users/{user}/adjustments", json={"amount": "-30", **WHY})
    await days(talktime, 2)
    assert await balance(talktime, user) == "100"
    entries = (await talktime.get(f"/v1/users/{user}/entries"))["data"]
    told = [(entry["kind"], entry["amount"]) for entry in reversed(entries)]
    assert [one for one in told if one[0] != "grant"] == [("adjustment", "-30"), ("expiry", "-70"), ("expiry", "-100")]
    found = await grants(talktime, user)
    assert [(grant["amount"], grant["state"]) for grant in found] == [("100", "expired")] * 2 + [("100", "active")]
    assert {(one["kind"], one["priority"], one["cost_basis"], one["metadata"]["plan"]) for one in found} == {
        ("paid", 7, "0.05", "gold")
    }
    for this, following in pairwise(found):
        assert this["expires_at"] == following["effective_at"]
    (document,) = (await talktime.get(f"/v1/users/{user}/recurring-grants"))["data"]
    assert document == await talktime.get(f"/v1/recurring-grants/{made['id']}")
    assert document["given"] == 3
    audits = (await talktime.get(f"/v1/audit-log?user_id={user}&actor=recurring"))["data"]
    assert [audit["after"]["period"] for audit in audits] == ["2", "1", "0"]


async def test_a_month_later_is_the_same_day_or_the_last(talktime: World) -> None:
    user = talktime.user()
    start = instant_of(datetime(2027, 1, 31, 9, 30, tzinfo=UTC))
    await make(talktime, user, period="month", leftover="rollover", starts_at=format_instant(start))
    assert await grants(talktime, user) == []
    for month in range(1, 6):
        await at(talktime, f"2027-0{month}-28T10:00:00Z", f"2027-0{month + 1}-01T10:00:00Z")
    begun = [grant["effective_at"][:16] for grant in await grants(talktime, user)]
    assert begun == [f"2027-{day}T09:30" for day in ("01-31", "02-28", "03-31", "04-30", "05-31")]
    assert await balance(talktime, user) == "500"


async def test_the_next_one_is_there_before_the_one_before_has_expired(talktime: World) -> None:
    """So no start is refused in between, and no alert falls only to recover."""
    user = talktime.user()
    await make(talktime, user)
    begins = talktime.clock.now() + US_PER_DAY
    await at(talktime, Instant(begins - LEAD))
    _, following = await grants(talktime, user)
    assert (following["state"], parse_instant(following["effective_at"])) == ("scheduled", begins)
    assert await balance(talktime, user) == "100"
    talktime.clock.set(Instant(begins))
    assert await balance(talktime, user) == "100"
    await talktime.start(user, time_limit_s=60)
    kinds = [event["type"] for event in (await talktime.get(f"/v1/events?user_id={user}"))["data"]]
    assert not [kind for kind in kinds if kind.startswith("balance.")]


@pytest.mark.parametrize(
    ("cap", "spent", "given", "left"), [(None, "30", "100", "170"), ("20", "30", "50", "120"), ("0", "0", None, "100"),
                                        ("100", "0", "100", "200"), ("70", "30", "100", "170")]
)  # fmt: skip
async def test_so_much_rolls_over_as_the_cap_lets(
    talktime: World, cap: str | None, spent: str, given: str | None, left: str
) -> None:
    user = talktime.user()
    terms = {} if cap is None else {"rollover_cap": cap}
    made = await make(talktime, user, leftover="rollover", **terms)
    if spent != "0":
        await talktime.client.post(f"/v1/users/{user}/adjustments", json={"amount": f"-{spent}", **WHY})
    await days(talktime, 1)
    assert [grant["amount"] for grant in await grants(talktime, user)] == ["100", *([given] if given else [])]
    assert await balance(talktime, user) == left
    assert (await talktime.get(f"/v1/recurring-grants/{made['id']}"))["given"] == 2


async def test_what_a_session_holds_is_not_left(talktime: World) -> None:
    user = talktime.user()
    await make(talktime, user, leftover="rollover", rollover_cap="0")
    await days(talktime, 0)
    talktime.clock.set(Instant(talktime.clock.now() + US_PER_DAY - 10 * US_PER_S))
    await talktime.start(user, time_limit_s=60)
    await at(talktime, Instant(talktime.clock.now() + 10 * US_PER_S))
    assert [grant["amount"] for grant in await grants(talktime, user)] == ["100", "60"]


async def test_what_was_missed_is_given_in_order_as_of_its_time(talktime: World) -> None:
    user, other = talktime.user(), talktime.user()
    expiring = await make(talktime, user, "10")
    await make(talktime, user, "1", leftover="rollover", period="week")
    await make(talktime, other, "7")
    begun = talktime.clock.now()
    days_missed = 3 * AT_ONCE
    await at(talktime, Instant(begun + days_missed * US_PER_DAY + US_PER_S))
    weeks = days_missed // 7 + 1
    assert await balance(talktime, user) == str(10 + weeks)
    assert await balance(talktime, other) == "7"
    found = [grant for grant in await grants(talktime, user) if grant["amount"] == "10"]
    assert [parse_instant(grant["effective_at"]) for grant in found] == [
        begun + n * US_PER_DAY for n in range(days_missed + 1)
    ]
    assert [grant["state"] for grant in found] == ["expired"] * days_missed + ["active"]
    assert (await talktime.get(f"/v1/recurring-grants/{expiring['id']}"))["given"] == days_missed + 1
    entries = (await talktime.get(f"/v1/users/{user}/entries?kind=expiry&limit=500"))["data"]
    assert len(entries) == days_missed


async def test_a_missed_period_repays_debt_before_it_expires(talktime: World) -> None:
    user = talktime.user()
    await make(talktime, user, "10", starts_at=format_instant(Instant(talktime.clock.now() + US_PER_DAY)))
    body = {"amount": "-25", "allow_below_floor": True, **WHY}
    await talktime.client.post(f"/v1/users/{user}/adjustments", json=body)
    await days(talktime, 1)
    await at(talktime, Instant(talktime.clock.now() + 2 * US_PER_DAY))
    assert await balance(talktime, user) == "5"


async def test_any_number_of_workers_at_once_give_each_period_once(talktime: World) -> None:
    users = [talktime.user() for _ in range(5)]
    for user in users:
        await make(talktime, user, "10", leftover="rollover")
    now = Instant(talktime.clock.now() + 5 * US_PER_DAY)
    talktime.clock.set(now)
    service = talktime.service
    given = await asyncio.gather(*(post_recurring(service.database, service.ledger, now) for _ in range(6)))
    assert sum(given) >= 25
    for user in users:
        assert await balance(talktime, user) == "60"


async def test_what_passes_while_it_is_paused_is_skipped(talktime: World) -> None:
    user = talktime.user()
    series = await make(talktime, user, "10", leftover="rollover")
    paused = await change(talktime, series, "pause")
    assert (paused["state"], paused["next_at"]) == ("paused", None)
    assert await change(talktime, series, "pause") == paused
    await days(talktime, 3, beside=US_PER_S)
    assert await balance(talktime, user) == "10"
    resumed = await change(talktime, series, "resume")
    assert (resumed["state"], resumed["given"], resumed["skipped"]) == ("active", 1, 3)
    assert parse_instant(resumed["next_at"]) == parse_instant(series["starts_at"]) + 4 * US_PER_DAY
    await days(talktime, 1)
    assert await balance(talktime, user) == "20"
    cancelled = await change(talktime, series, "cancel")
    assert cancelled["state"] == "cancelled"
    assert await change(talktime, series, "cancel") == cancelled
    await days(talktime, 2)
    assert await balance(talktime, user) == "20"
    for verb in ("pause", "resume"):
        answer = await talktime.client.post(f"/v1/recurring-grants/{series['id']}/{verb}", json=WHY)
        problem(answer, 409, "recurring-grant-over")


async def test_what_is_due_when_it_is_paused_is_given_first(talktime: World) -> None:
    user = talktime.user()
    series = await make(talktime, user, "10", leftover="rollover")
    talktime.clock.advance(2 * 86_400 + 5)
    assert (await change(talktime, series, "pause"))["given"] == 3
    assert await balance(talktime, user) == "30"


@pytest.mark.parametrize("end", ["count", "ends_at"])
async def test_it_ends_by_itself(talktime: World, end: str) -> None:
    user = talktime.user()
    ends = {"count": 3} if end == "count" else {
        "ends_at": format_instant(Instant(talktime.clock.now() + 3 * US_PER_DAY))
    }  # fmt: skip
    series = await make(talktime, user, "10", leftover="rollover", **ends)
    await days(talktime, 5)
    assert await balance(talktime, user) == "30"
    found = await talktime.get(f"/v1/recurring-grants/{series['id']}")
    assert (found["state"], found["given"], found["next_at"]) == ("ended", 3, None)
    answer = await talktime.client.post(f"/v1/recurring-grants/{series['id']}/pause", json=WHY)
    problem(answer, 409, "recurring-grant-over")


async def test_a_series_that_ends_while_paused_is_over_when_it_is_resumed(talktime: World) -> None:
    user = talktime.user()
    series = await make(talktime, user, "10", count=2)
    await change(talktime, series, "pause")
    await days(talktime, 4, beside=US_PER_S)
    assert (await change(talktime, series, "resume"))["state"] == "ended"


async def test_one_period_is_all_of_it(talktime: World) -> None:
    series = await make(talktime, talktime.user(), "10", count=1)
    assert (series["state"], series["given"], series["next_at"]) == ("ended", 1, None)


async def test_suspension_stops_no_credits(talktime: World) -> None:
    user = talktime.user()
    await make(talktime, user, "10", leftover="rollover")
    await talktime.client.patch(f"/v1/users/{user}", json={"suspended": True, **WHY})
    await days(talktime, 1)
    assert await balance(talktime, user) == "20"


async def test_a_broken_account_stops_no_other(talktime: World) -> None:
    broken, user = talktime.user(), talktime.user()
    await make(talktime, broken, "10", leftover="rollover")
    await make(talktime, user, "10", leftover="rollover")
    url = talktime.service.database.conninfo
    break_it = "update accounts set balance = balance + {0} where user_id = '" + broken + "'"
    tell(url, break_it.format(1))
    await days(talktime, 1)
    tell(url, break_it.format(-1))
    assert await balance(talktime, user) == "20"
    await days(talktime, 1)
    assert await balance(talktime, broken) == "30"


async def test_an_alarm_gives_what_is_due(talktime: World) -> None:
    user = talktime.user()
    await make(talktime, user, "10", leftover="rollover")
    talktime.clock.advance(86_400 * 400)
    await talktime.service.post_recurring()
    assert await balance(talktime, user) == "4010"


async def test_the_same_key_makes_one(talktime: World) -> None:
    user = talktime.user()
    body, key = {"amount": "5", "period": "week"}, {"Idempotency-Key": uuid4().hex}
    path = f"/v1/users/{user}/recurring-grants"
    answers = [await talktime.client.post(path, json=body, headers=key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert await balance(talktime, user) == "5"


PAST = "2020-01-01T00:00:00Z"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no amount": ({"amount": None}, "/amount"),
    "an amount of 0": ({"amount": "0"}, "/amount"),
    "another period": ({"period": "hour"}, "/period"),
    "a start in the past": ({"starts_at": PAST}, "/starts_at"),
    "an end in the past": ({"ends_at": PAST}, "/ends_at"),
    "two ends": ({"ends_at": "2100-01-01T00:00:00Z", "count": 2}, ""),
    "no period at all": ({"count": 0}, ""),
    "a cap on what expires": ({"rollover_cap": "5"}, ""),
    "a negative cap": ({"rollover_cap": "-5", "leftover": "rollover"}, "/rollover_cap"),
    "a priority over 100": ({"priority": 101}, "/priority"),
    "too many periods": ({"count": 10**6}, "/count"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_makes_no_sense_is_refused(talktime: World, name: str) -> None:
    given, pointer = REFUSED[name]
    body = {"amount": "5", "period": "month", **given}
    with unchanged(talktime.service.database.conninfo):
        answer = await talktime.client.post(f"/v1/users/{talktime.user()}/recurring-grants", json=body)
        assert [error["pointer"] for error in problem(answer, 422, "invalid-request")["errors"]] == [pointer]


async def test_a_user_has_so_many_at_most(talktime: World) -> None:
    user = talktime.user()
    made = [await make(talktime, user, "1") for _ in range(MAX_RECURRING)]
    path = f"/v1/users/{user}/recurring-grants"
    answer = await talktime.client.post(path, json={"amount": "1", "period": "day"})
    problem(answer, 409, "too-many-recurring-grants")
    await change(talktime, made[0], "cancel")
    await make(talktime, user, "1")


async def test_nobody_else_may_use_their_references(talktime: World) -> None:
    body = {"amount": "5", "reference": "recurring:1:0"}
    problem(await talktime.client.post(f"/v1/users/{talktime.user()}/grants", json=body), 422, "invalid-request")


async def test_a_series_that_is_not_there_is_not_found(talktime: World) -> None:
    for name in ("rec_" + "0" * 52, "rec_x", "grt_" + "0" * 52):
        problem(await talktime.client.get(f"/v1/recurring-grants/{name}"), 404, "not-found")
        answer = await talktime.client.post(f"/v1/recurring-grants/{name}/pause", json=WHY)
        problem(answer, 404, "not-found")
    problem(await talktime.client.get(f"/v1/users/{talktime.user()}/recurring-grants"), 404, "not-found")


async def test_a_list_goes_on_where_it_ended(talktime: World) -> None:
    user = talktime.user()
    made = []
    for _ in range(5):
        talktime.clock.advance(1)
        made.append((await make(talktime, user, "1"))["id"])
    found: list[str] = []
    cursor = ""
    while True:
        page = await talktime.get(f"/v1/users/{user}/recurring-grants?limit=2{cursor}")
        found += [one["id"] for one in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == made[::-1]
    rows = ask(
        talktime.service.database.conninfo,
        "select count(*) from recurring_periods p join recurring_grants r on r.id = p.recurring_id"
        f" join accounts a on a.account_id = r.account_id where a.user_id = '{user}'",
    )
    assert rows == [(5,)]
    assert datetime_of(talktime.clock.now()).year >= 2026
