"""Each page makes a bounded number of queries, however much there is to show."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.browser.examples import EXAMPLES, PORTAL
from tests.integration.test_sign_in import browser, sign_in
from tests.support.furnished import Furnished, furnish
from tests.support.plans import asked
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost
from tests.support.world import ADMIN_KEY, World, world

pytestmark = pytest.mark.anyio

MOST: Any = 40
"""Queries of a page. Each is read in one state, so the time of each of them counts."""


async def costs(talktime: World, found: Furnished, client: httpx.AsyncClient) -> dict[str, int]:
    """How many queries each page makes."""
    made: dict[str, int] = {}
    for path, address in {**EXAMPLES, **PORTAL}.items():
        talktime.clock.advance(6)  # or the overview would show what it has read already
        with asked(talktime) as statements:
            response = await client.get(address(found))
        assert response.status_code in {200, 303}, f"{path}: {response.status_code}"
        made[path] = len(statements)
    return made


@pytest.fixture(scope="module")
async def stage(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[tuple[World, Furnished]]:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script()) as talktime:
            yield talktime, await furnish(talktime)


async def test_no_page_asks_more_where_there_is_more(stage: tuple[World, Furnished]) -> None:
    talktime, found = stage
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        link = await talktime.client.post(f"/v1/users/{found.user}/portal-links", json={"ttl_s": 3600})
        await client.get(link.json()["url"])
        before = await costs(talktime, found, client)
        for _ in range(60):
            await talktime.grant(talktime.user(), "5")
            await talktime.grant(found.user, "5")
        for _ in range(12):
            session = await talktime.start(found.user, time_limit_s=30)
            talktime.provider.say(session["provider_session_id"], ("user", 1))
        after = await costs(talktime, found, client)
    assert {path: count for path, count in after.items() if count > before[path]} == {}
    assert {path: count for path, count in before.items() if count > MOST} == {}
    assert before["/admin/users"] >= 2, "nothing was counted"
