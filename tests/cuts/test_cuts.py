"""A connection lost around COMMIT loses nothing and does nothing twice, at every write of the money path.

Each operation runs once uncut, which counts its commits; then once for each of them and each side, cut there, and asked
for again as its client would. What is stored of the user must be the same as without the cut. ``make cuts`` does all of
them, ``make test`` an excerpt.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import make_url

from app.core.ids import account_id_of
from tests.cuts.operations import CARDS, EXCERPT, OPERATIONS, Case, Operation
from tests.cuts.proxy import Cutter, Side, proxy
from tests.support.postgres import WorkerDatabases, ask
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

MOST_TRIES = 14
CHOSEN = OPERATIONS if "CUTS_ALL" in os.environ else [one for one in OPERATIONS if one.name in EXCERPT]
MONEY = """
select 'account', jsonb_agg(jsonb_build_array(balance, debt, held, credit_limit, seq)) from accounts where {mine}
union all select 'entry', jsonb_agg(jsonb_build_array(seq, kind, amount, balance_after) order by seq)
  from entries where {mine}
union all select 'grant', jsonb_agg(jsonb_build_array(kind, amount, remaining, held, state) order by amount, id)
  from grants where {mine}
union all select 'hold', jsonb_agg(jsonb_build_array(state, amount)) from holds where {mine}
union all select 'session', jsonb_agg(jsonb_build_array(state, authorized, charged, leakage)) from sessions where {mine}
union all select 'charge', jsonb_agg(jsonb_build_array(version, amount) order by version) from charges where {mine}
"""
REST = """
union all select 'hold change', jsonb_agg(jsonb_build_array(why, delta, held_after) order by seq)
  from hold_changes where {mine}
union all select 'limit', jsonb_agg(credit_limit order by n) from limit_changes where {mine}
union all select 'event', jsonb_agg(type order by seq) from events where {mine}
union all select 'audit', jsonb_agg(action order by action) from audit_log
  where {mine} and action <> 'session.reconcile'  -- one for each time that it was asked for
union all select 'key', jsonb_agg(jsonb_build_array(state, status)) from idempotency where {mine}
union all select 'step', jsonb_agg(to_state order by session_id, n) from session_steps where {mine}
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def providers() -> Any:
    with provider_host() as host:
        yield host


@pytest.fixture(scope="module")
def cutter() -> Cutter:
    return Cutter()


@pytest.fixture(scope="module")
async def talktime(databases: WorkerDatabases, providers: ProviderHost, cutter: Cutter) -> AsyncIterator[World]:
    """A service whose every connection goes through the proxy."""
    direct = make_url(databases.urls.service)
    with proxy(direct, cutter) as port:
        through = direct.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        async with world(through, providers.script(), gabber_capabilities="end") as found:
            for name, rate in CARDS.items():
                rates = {"user": rate, "agent": rate, "silence": rate}
                response = await found.client.post("/v1/rate-cards", json={"name": name, "rates": rates})
                assert response.status_code == 201, response.text
            yield found


async def tried(
    talktime: World, cutter: Cutter, operation: Operation, at: int | None = None, side: Side = Side.BEFORE
) -> tuple[list[str], dict[str, Any]]:
    """What the client saw until it had its answer, and what is stored then, which asking once more does not change."""
    talktime.renew()
    case = Case(talktime.user())
    await operation.prepare(talktime, case)
    started = len(talktime.provider.started)
    cutter.begin(at, side, operation.times)
    seen: list[str] = []
    while not seen or seen[-1].startswith("!"):
        assert len(seen) < MOST_TRIES, seen
        if seen:
            talktime.clock.advance(61)  # a lease that nobody gave back ends
        seen.append(await operation.act(talktime, case))
    commits = cutter.commits
    stored = state(talktime, case, operation)
    again = await operation.act(talktime, case)
    assert again.removesuffix(" replayed") == seen[-1].removesuffix(" replayed")
    assert state(talktime, case, operation) == stored
    cutter.commits = commits
    stored["started"] = len(talktime.provider.started) - started
    return seen, stored


def state(talktime: World, case: Case, operation: Operation) -> dict[str, Any]:
    statement = MONEY + (REST if operation.exact else "")
    mine = f"account_id = '{account_id_of(case.user)}'"
    return dict(ask(talktime.service.database.conninfo, statement.replace("{mine}", mine)))


@pytest.mark.parametrize("operation", CHOSEN, ids=lambda operation: operation.name)
async def test_a_cut_loses_nothing_and_does_nothing_twice(
    talktime: World, cutter: Cutter, operation: Operation, record_property: Any
) -> None:
    seen, wanted = await tried(talktime, cutter, operation)
    commits = cutter.commits
    assert commits == operation.commits
    table = [f"{operation.name:19} uncut, {commits} commits: {shown(seen)}"]
    for at in range(1, commits + 1):
        for side in Side:
            seen, stored = await tried(talktime, cutter, operation, at, side)
            assert cutter.cuts == operation.times, "the connection was not cut"
            if (at, side) == operation.never_asked:
                assert_failed(stored, wanted)
            else:
                assert stored == wanted, (at, side, seen)
            table.append(f"{operation.name:19} {side:6} commit {at}: {shown(seen)}")
    record_property("cuts", table)


def assert_failed(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The attempt was committed, but the provider was never asked: nothing runs, and nothing is held any more."""
    assert stored["started"] == 0
    assert [state for state, *_ in stored["session"]] == ["failed"]
    assert [state for state, _ in stored["hold"]] == ["released"]
    assert [held for *_, held, _, _ in stored["account"]] == [0]
    assert (stored["entry"], stored["charge"]) == (wanted["entry"], wanted["charge"])


def shown(seen: list[str]) -> str:
    return " → ".join(answer.removeprefix("!") for answer in seen)


async def test_without_a_key_asking_again_may_do_it_twice(talktime: World, cutter: Cutter) -> None:
    """As the API's documentation says: which side of COMMIT the connection was lost on, nobody can tell."""
    for side, given in ((Side.BEFORE, "5"), (Side.AFTER, "10")):
        user = talktime.user()
        cutter.begin(1, side)
        problem(await talktime.client.post(f"/v1/users/{user}/grants", json={"amount": "5"}), 503, "unavailable")
        await talktime.grant(user, "5")
        assert (await talktime.balance(user))["balance"] == given
