"""What admins do with endpoints on their pages: looked at first, then done, as the API's calls would."""

import html
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.test_sign_in import browser, sign_in
from tests.support.hooks import Reply, hooks
from tests.support.postgres import WorkerDatabases, tell
from tests.support.scripted_provider import ProviderHost
from tests.support.world import ADMIN_KEY, World, world

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def world_of_the_module(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script(), events_allow_private_targets=True) as found:
            yield found


class Admin:
    """Somebody before the pages."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def see(self, address: str) -> str:
        answer = await self.client.get(address)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def do(self, address: str, **typed: Any) -> httpx.Response:
        """Type, look, and confirm; the answer to that."""
        page = await self.see(address)
        csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', page)[0]
        hidden = dict(re.findall(r'type="hidden" name="(step|key)" value="([^"]+)"', page))
        if "key" not in hidden:
            looked = await self.client.post(address, data={**typed, "csrf": csrf, "step": "look"})
            assert looked.status_code == 200, looked.text
            hidden = dict(re.findall(r'type="hidden" name="(key|shown)" value="([^"]+)"', looked.text))
            hidden["step"] = "do"
        return await self.client.post(address, data={**typed, "csrf": csrf, **hidden})


@pytest.fixture
async def admin(talktime: World) -> AsyncIterator[Admin]:
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        yield Admin(client)
    tell(talktime.service.database.conninfo, "delete from admin_sessions")


async def test_an_endpoint_from_its_making_to_its_end(talktime: World, admin: Admin) -> None:
    async with hooks() as receiver:
        made = await admin.do("/admin/endpoints/new", url=receiver.url(), description="billing")
        assert made.status_code == 200
        assert re.search(r"whsec_[A-Za-z0-9+/=]{44}", made.text)
        (endpoint,) = (await talktime.get("/v1/webhook-endpoints"))["data"]
        address = f"/admin/endpoints/{endpoint['id']}"
        assert receiver.url() in await admin.see("/admin/endpoints")

        user = talktime.user()
        receiver.behave = lambda _: Reply(500, body=b"<b>out of order</b>")
        await talktime.grant(user, "1")
        await talktime.service.deliverer.run_due()
        event_id = receiver.received[0].id
        delivery = await admin.see(f"{address}/deliveries/{event_id}")
        assert "&lt;b&gt;out of order&lt;/b&gt;" in delivery
        assert receiver.received[0].body.decode() in html.unescape(delivery)
        assert user in await admin.see(address)
        assert user in await admin.see(f"{address}?state=waiting")
        assert user not in await admin.see(f"{address}?state=delivered")

        tell(
            talktime.service.database.conninfo,
            "update deliveries set state = 'dead', due_at = null, finished_at = created_at",
        )
        assert user in await admin.see("/admin/dead-letters")
        assert "1 dead letters" in await admin.see("/admin/system")
        receiver.behave = lambda _: Reply()
        assert (await admin.do(f"{address}/retry")).status_code == 303
        await talktime.service.deliverer.run_due()
        assert "There is none" in await admin.see("/admin/dead-letters")

        assert (await admin.do(f"{address}/deliveries/{event_id}/again")).status_code == 303
        await talktime.service.deliverer.run_due()
        assert [one.id for one in receiver.received] == [event_id] * 3

        assert (await admin.do(f"{address}/test")).status_code == 303
        await talktime.service.deliverer.run_due()
        assert receiver.received[-1].event["type"] == "webhook_endpoint.test"

        assert (await admin.do(f"{address}/replay", after="2020-01-01 00:00")).status_code == 303
        await talktime.service.deliverer.run_due()
        assert receiver.received[-1].id == event_id
        assert len(receiver.received) == 5

        rotated = await admin.do(f"{address}/rotate", overlap_s="3600")
        assert "whsec_" in rotated.text
        await admin.do(f"{address}/test")
        await talktime.service.deliverer.run_due()
        assert len(receiver.received[-1].headers["webhook-signature"].split(" ")) == 2

        changed = await admin.do(
            f"{address}/change", url=receiver.url("/2"), event_types=["grant.created"], state="disabled"
        )
        assert changed.status_code == 303
        shown = await talktime.get(f"/v1/webhook-endpoints/{endpoint['id']}")
        assert (shown["url"], shown["event_types"]) == (receiver.url("/2"), ["grant.created"])
        assert (shown["description"], shown["state"], shown["disabled_why"]) == (None, "disabled", "by_hand")
        page = await admin.see(f"{address}/change")
        assert re.search(r'value="grant.created"[^>]*checked', page)
        assert not re.search(r'value="session.over"[^>]*checked', page)

        assert (await admin.do(f"{address}/delete")).status_code == 303
        assert (await admin.client.get(address)).status_code == 404
        assert (await talktime.get("/v1/webhook-endpoints"))["data"] == []
    actions = {row["action"] for row in (await talktime.get("/v1/audit-log?limit=500"))["data"]}
    made_here = ("create", "change", "rotate", "test", "retry", "replay", "delete")
    assert {*(f"webhook_endpoint.{one}" for one in made_here), "event.redeliver"} <= actions


async def test_what_the_api_refuses_the_page_refuses(talktime: World, admin: Admin) -> None:
    page = await admin.see("/admin/endpoints/new")
    csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', page)[0]
    for url in ("ftp://hook.example/", "http://169.254.169.254/", "https://user@hook.example/"):
        answer = await admin.client.post("/admin/endpoints/new", data={"url": url, "csrf": csrf, "step": "look"})
        assert answer.status_code == 422, url
        assert "must" in answer.text
    assert (await talktime.get("/v1/webhook-endpoints"))["data"] == []


async def test_what_concerns_nobody_is_shown_among_events(talktime: World, admin: Admin) -> None:
    card = {"name": talktime.user(), "rates": {"user": "1", "agent": "1", "silence": "1"}}
    assert (await talktime.client.post("/v1/rate-cards", json=card)).status_code == 201
    for address in ("/admin/events", "/admin/events?type=rate_card.published", "/admin"):
        assert "rate_card.published" in await admin.see(address)
