"""The pages of payments: what waits for a person is shown, and decided there."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from app.core.ids import Kind, payment_id_of, reference_id
from tests.integration.test_sign_in import browser, sign_in
from tests.support.stripe import paid
from tests.support.world import ADMIN_KEY, World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(talktime: World) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        yield client


async def test_a_payment_of_nobodys_is_decided_on_its_page(talktime: World, admin: httpx.AsyncClient) -> None:
    user = talktime.user()
    bought = await paid(talktime, None, 1000)
    payment = reference_id(Kind.PAYMENT, payment_id_of(bought.reference))
    listed = (await admin.get("/admin/payments?needs_attention=true")).text
    assert bought.reference in listed
    assert "nobody is named who gets the credits" in listed
    assert f"/admin/payments/{payment}/resolve" in (await admin.get(f"/admin/payments/{payment}")).text
    address = f"/admin/payments/{payment}/resolve"
    csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', (await admin.get(address)).text)[0]
    typed = {"action": "grant", "reason": "she wrote to us", "csrf": csrf}
    refused = await admin.post(address, data={**typed, "step": "look"})
    assert refused.status_code == 422
    assert "is not known: say it" in refused.text
    typed["user_id"] = user
    looked = (await admin.post(address, data={**typed, "step": "look"})).text
    assert "granted" in looked
    assert (await talktime.client.get(f"/v1/users/{user}/balance")).status_code == 404
    hidden = dict(re.findall(r'type="hidden" name="(key|shown)" value="([^"]+)"', looked))
    for _ in range(2):
        done = await admin.post(address, data={**typed, **hidden, "step": "do"})
        assert done.status_code == 303, done.text
    assert (await talktime.balance(user))["balance"] == "100"
    shown = (await admin.get(f"/admin/payments/{payment}")).text
    assert f"/admin/users/{user}" in shown
    assert f"/admin/payments/{payment}/resolve" not in shown
    assert bought.reference not in (await admin.get("/admin/payments?needs_attention=true")).text
    assert bought.reference in (await admin.get(f"/admin/payments?user_id={user}")).text


async def test_a_users_page_says_what_comes_each_period(talktime: World, admin: httpx.AsyncClient) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    assert "Recurring grants" not in (await admin.get(f"/admin/users/{user}")).text
    body = {"amount": "12.5", "period": "week", "leftover": "rollover", "rollover_cap": "3"}
    made = await talktime.client.post(f"/v1/users/{user}/recurring-grants", json=body)
    shown = (await admin.get(f"/admin/users/{user}")).text
    assert "Recurring grants" in shown
    assert "rolls over, up to 3" in shown
    assert made.json()["next_at"][:10] in shown


async def test_a_payment_that_is_not_there_has_no_page(admin: httpx.AsyncClient) -> None:
    for name in ("pay_" + "0" * 26, "pay_x"):
        assert (await admin.get(f"/admin/payments/{name}")).status_code == 404
