"""The same request many times at once: it takes no other one's place."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import select

from app.core.ids import account_id_of
from app.db.database import POOL_SIZE
from app.db.tables import accounts
from app.http import idempotency
from tests.figures.repeats import measure
from tests.support.postgres import WorkerDatabases
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

REPEATED: dict[str, tuple[str, dict[str, Any], int]] = {
    "adjustment": ("/v1/users/{user}/adjustments", {"amount": "-1", "reason": "a test"}, 201),
    "adoption": (
        "/v1/sessions",
        {"user_id": "{user}", "persona": "p", "scenario": "s", "time_limit_s": 30, "start": False},
        201,
    ),
    "start": ("/v1/sessions", {"user_id": "{user}", "persona": "p", "scenario": "s", "time_limit_s": 30}, 201),
}


async def test_a_crowd_on_one_account_keeps_no_other_user_waiting(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    async with talktime.service.database.transaction() as transaction:
        await transaction.execute(
            select(accounts).where(accounts.c.account_id == account_id_of(user)).with_for_update()
        )
        waiting = [asyncio.create_task(talktime.grant(user, "1")) for _ in range(3 * POOL_SIZE)]
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        await talktime.grant(talktime.user(), "1")
        assert time.monotonic() - begun < 2
        assert not any(one.done() for one in waiting)
    await asyncio.gather(*waiting)
    assert (await talktime.balance(user))["balance"] == str(3 * POOL_SIZE + 1)


@pytest.mark.parametrize("kind", REPEATED)
async def test_repetitions_of_a_slow_request_keep_no_other_one_waiting(talktime: World, kind: str) -> None:
    path, body, status = REPEATED[kind]
    user = talktime.user()
    await talktime.grant(user, "100")
    sent = {name: value.format(user=user) if isinstance(value, str) else value for name, value in body.items()}
    async with talktime.service.database.transaction() as transaction:
        await transaction.execute(
            select(accounts).where(accounts.c.account_id == account_id_of(user)).with_for_update()
        )
        repeated = [
            asyncio.create_task(
                talktime.client.post(path.format(user=user), json=sent, headers={"Idempotency-Key": f"again-{user}"})
            )
            for _ in range(3 * POOL_SIZE)
        ]
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        await talktime.grant(talktime.user(), "1")
        assert time.monotonic() - begun < 2
        assert not any(one.done() for one in repeated)
    answers = await asyncio.gather(*repeated)
    # A start answers those that come while the provider is being asked by 409.
    told = {answer.content for answer in answers if answer.status_code == status}
    assert len(told) == 1
    assert {answer.status_code for answer in answers} <= ({status, 409} if kind == "start" else {status})
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "idempotency-in-flight")


async def test_whoever_waits_too_long_for_the_first_request_is_told_so(
    talktime: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "LOCK_TIMEOUT_MS", 50)
    user = talktime.user()
    await talktime.grant(user, "100")

    async def give() -> int:
        body, headers = {"amount": "1"}, {"Idempotency-Key": f"slow-{user}"}
        response = await talktime.client.post(f"/v1/users/{user}/grants", json=body, headers=headers)
        if response.status_code == 409:
            problem(response, 409, "idempotency-in-flight")
        return response.status_code

    async with talktime.service.database.transaction() as transaction:
        await transaction.execute(
            select(accounts).where(accounts.c.account_id == account_id_of(user)).with_for_update()
        )
        first = asyncio.create_task(give())
        await asyncio.sleep(0.1)
        assert await give() == 409
    assert await first == 201
    assert await give() == 201


async def test_identical_requests_at_once_to_two_services_have_one_effect_and_one_answer(
    databases: WorkerDatabases, providers: ProviderHost
) -> None:
    provider = providers.script()
    with databases.fresh() as urls:
        async with world(urls.service, provider) as one, world(urls.service, provider, clock=one.clock) as other:
            await measure([one, other], keys=10, times=12, keys_at_once=4)
