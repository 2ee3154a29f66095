"""``GET /v1/users``."""

from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.plans import asked, plan_of
from tests.support.world import World

pytestmark = pytest.mark.anyio

AMOUNTS = {"Zoe": "5", "ann": "30", "Ben": "0.000001", "cy/ä": "12.5", "dan%": "12.5"}


@pytest.fixture
async def crowd(talktime: World) -> dict[str, str]:
    """Users under a common beginning of their own, by short name."""
    base = talktime.user()
    users = {name: f"{base}.{name}" for name in AMOUNTS}
    for name, user_id in users.items():
        await talktime.grant(quote(user_id, safe=""), AMOUNTS[name])
    return users


async def listed(talktime: World, **given: Any) -> list[str]:
    """Short names in the order of the list, read page by page."""
    names: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        response = await talktime.client.get("/v1/users", params={"limit": 2, **given, **cursor})
        assert response.status_code == 200, response.text
        found = response.json()
        assert len(found["data"]) <= 2
        names += [user["user_id"].rpartition(".")[2] for user in found["data"]]
        if found["next_cursor"] is None:
            return names
        cursor = {"cursor": found["next_cursor"]}


async def test_by_id_whatever_its_case_and_by_what_is_left(talktime: World, crowd: dict[str, str]) -> None:
    q = crowd["ann"].removesuffix("ann").upper()
    assert await listed(talktime, q=q) == ["ann", "Ben", "cy/ä", "dan%", "Zoe"]
    assert await listed(talktime, q=q, sort="-user_id") == ["Zoe", "dan%", "cy/ä", "Ben", "ann"]
    low = await listed(talktime, q=q, sort="available")
    assert [Decimal(AMOUNTS[name]) for name in low] == sorted(map(Decimal, AMOUNTS.values()))
    assert await listed(talktime, q=q, sort="-available") == low[::-1]
    assert set(await listed(talktime, q=q, min_available="5", max_available="12.5")) == {"Zoe", "cy/ä", "dan%"}
    assert await listed(talktime, q=q, max_available="-1") == []
    assert await listed(talktime, q=crowd["dan%"]) == ["dan%"]


async def test_however_long_ids_are_a_page_leads_to_the_next(talktime: World) -> None:
    base = talktime.user()
    users = [base + "\U0001f600" * (127 - len(base)) + last for last in "abc"]
    for user_id in users:
        await talktime.grant(quote(user_id, safe=""), "1")
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in users:
        page = (await talktime.client.get("/v1/users", params={"q": base, "limit": 1, **cursor})).json()
        seen += [user["user_id"] for user in page["data"]]
        cursor = {"cursor": page["next_cursor"]}
    assert seen == users
    assert cursor == {"cursor": None}


async def test_what_is_held_is_not_available(talktime: World, crowd: dict[str, str]) -> None:
    user_id = crowd["ann"]
    await talktime.client.patch(f"/v1/users/{user_id}", json={"credit_limit": "10", "suspended": False})
    await talktime.start(user_id, time_limit_s=35)
    (user,) = (await talktime.get(f"/v1/users?q={user_id}"))["data"]
    balance = await talktime.balance(user_id)
    assert {name: user[name] for name in ("balance", "held", "available", "credit_limit")} == {
        name: balance[name] for name in ("balance", "held", "available", "credit_limit")
    }
    assert user["available"] == "5"


async def test_bad_parameters_are_refused(talktime: World) -> None:
    for given, pointer in (
        ({"sort": "balance"}, "/sort"),
        ({"min_available": "1e3"}, "/min_available"),
        ({"max_available": ""}, "/max_available"),
        ({"q": ""}, "/q"),
        ({"q": "x" * 129}, "/q"),
        ({"cursor": "x"}, "/cursor"),
        ({"sort": "available", "cursor": "WyJhIiwiYiJd"}, "/cursor"),
    ):
        response = await talktime.client.get("/v1/users", params=given)
        assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize("sort", ["user_id", "-user_id", "available", "-available"])
async def test_a_page_is_read_from_an_index(talktime: World, crowd: dict[str, str], sort: str) -> None:
    with asked(talktime) as statements:
        await talktime.get(f"/v1/users?sort={sort}")
    plan = plan_of(talktime, *next(one for one in statements if "accounts" in one[0]))
    assert "Sort" not in plan
    assert "accounts_user_id_idx" in plan or "accounts_available_idx" in plan
