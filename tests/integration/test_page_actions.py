"""Forms that are sent again."""

import re

import pytest

from tests.integration.test_sign_in import browser, sign_in
from tests.support.postgres import tell
from tests.support.world import ADMIN_KEY, World

pytestmark = pytest.mark.anyio


async def test_what_was_refused_is_refused_again_in_the_same_words(talktime: World) -> None:
    """Between the look and the deed the grant's end has come: refused, and so again if the form is sent once more."""
    user = talktime.user()
    address = f"/admin/users/{user}/grant"
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        page = (await client.get(address)).text
        csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', page)[0]
        typed = {"amount": "5", "kind": "paid", "expires_at": "2026-03-01 12:10", "reason": "why", "csrf": csrf}
        looked = (await client.post(address, data={**typed, "step": "look"})).text
        hidden = dict(re.findall(r'type="hidden" name="(key|shown)" value="([^"]+)"', looked))
        assert set(hidden) == {"key", "shown"}
        talktime.clock.advance(3_600)
        answers = [await client.post(address, data={**typed, **hidden, "step": "do"}) for _ in range(2)]
    for answer in answers:
        assert answer.status_code == 422
        assert "Expires at must be in the future" in answer.text
    tell(talktime.service.database.conninfo, "delete from admin_sessions")
