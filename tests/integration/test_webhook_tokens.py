"""The token in a webhook's address: made before the provider is called, checked on its own, renewed with the secret."""

import asyncio
import hmac
from typing import Any

import pytest

from app.core.ids import AccountThing
from app.heartbeats import endpoint
from app.heartbeats.endpoint import PATH
from tests.support.postgres import WorkerDatabases, ask
from tests.support.scripted_provider import ProviderHost
from tests.support.world import SECRET, World, world

pytestmark = pytest.mark.anyio
NEW = "a-new-secret-0123456789"


async def status(talktime: World, webhook: str, session: dict[str, Any]) -> int:
    body = {"session_id": session["provider_session_id"]}
    return (await talktime.client.post(webhook, json=body)).status_code


async def test_old_webhooks_work_while_the_old_secret_stands_second_and_no_longer(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    with databases.fresh() as urls:
        provider = providers.script()
        async with world(urls.service, provider) as before:
            await before.grant("ada", "1000")
            old = await before.start("ada", time_limit_s=60)
            old_webhook = provider.starts[-1]["webhook"]
            assert await status(before, old_webhook, old) == 204
        async with world(urls.service, provider, secret=f"{NEW},{SECRET}") as meanwhile:
            new = await meanwhile.start("ada", time_limit_s=60)
            new_webhook = provider.starts[-1]["webhook"]
            assert [await status(meanwhile, old_webhook, old), await status(meanwhile, new_webhook, new)] == [204, 204]
        async with world(urls.service, provider, secret=NEW) as after:
            assert [await status(after, old_webhook, old), await status(after, new_webhook, new)] == [404, 204]
        async with world(urls.service, provider) as back:
            assert [await status(back, old_webhook, old), await status(back, new_webhook, new)] == [204, 404]
        assert ask(urls.service, "select count(*) from ticks") == [(5,)]


async def test_it_names_account_and_session_and_both_are_committed_before_the_provider_is_called(
    talktime: World,
) -> None:
    user = talktime.user()
    await talktime.grant(user, "100")
    seen: list[tuple[AccountThing | None, list[tuple[Any, ...]]]] = []

    async def look(asked: dict[str, Any]) -> None:
        session = talktime.service.tokens.read(asked["webhook"].rpartition("/")[2])
        assert session is not None
        rows = await asyncio.to_thread(
            ask,
            talktime.service.database.conninfo,
            "select s.state, h.amount > 0 from sessions s join holds h on h.session_id = s.id "
            f"where s.account_id = '{session.account_id}' and s.id = '{session.id}'",
        )
        seen.append((session, rows))

    talktime.provider.before_start = look
    session = await talktime.start(user)
    assert seen == [(talktime.key(session), [("starting", True)])]


async def test_it_is_compared_in_constant_time_and_as_bytes(talktime: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[type, type]] = []
    plain = hmac.compare_digest

    def told(ours: Any, given: Any) -> bool:
        compared.append((type(ours), type(given)))
        return plain(ours, given)

    session = AccountThing(
        talktime.key({"id": "ses_" + "0" * 52}).account_id, talktime.key({"id": "ses_" + "0" * 52}).id
    )
    token = talktime.service.tokens.mint(session)
    monkeypatch.setattr(hmac, "compare_digest", told)
    assert talktime.service.tokens.read(token) == session
    for place in (50, 60, 70, 80):  # in the MAC, near its beginning and its end
        other = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert talktime.service.tokens.read(other) is None
    assert compared == [(bytes, bytes)] * 5
    for odd in ("é" * len(token), "\ud800" * len(token), token[:-1] + "é"):
        assert talktime.service.tokens.read(odd) is None


async def test_a_wrong_one_is_refused_before_the_body_is_read_the_clock_asked_or_the_database_looked_at(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("a stranger caused work")

    monkeypatch.setattr(endpoint, "_body", nothing)
    monkeypatch.setattr(talktime.service.database, "reading", nothing)
    monkeypatch.setattr(talktime.service.database, "transaction", nothing)
    for text in ("guess", "A" * 91):
        response = await talktime.client.post(PATH + text, content=b"{}")
        assert (response.status_code, response.content) == (404, b"")
