"""What-if: settled sessions priced by another card, in the background, whatever comes between."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.core.units import US_PER_DAY, US_PER_S, Instant, format_instant, parse_instant
from app.core.what_if import NotRated, Priced
from app.pricing.templates import PROVIDER_COST
from app.schedule.jobs import LEASE
from app.service import Service
from app.what_if import pricing, running
from app.what_if.pricing import Material
from app.what_if.simulations import GIVEN_UP, KEPT, MAX_ATTEMPTS, MAX_UNFINISHED, purge_simulations
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.problems import problem
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

CALLS = "/v1/rate-cards/simulations"
AFTER, BEFORE = "2026-03-01T12:00:00Z", "2026-03-02T00:00:00Z"
RATES = {"user": "60", "agent": "120", "silence": "6"}
HALF = dict.fromkeys(RATES, "30")
CARD: dict[str, Any] = {"name": "what-if", "rates": RATES}
DOUBLED = {"name": "doubled", "rates": {"user": "120", "agent": "240", "silence": "12"}}
COST = {"name": "cost", "rates": {"user": "30", "agent": "30", "silence": "30"}}


class Period:
    """A world in which sessions of all kinds were settled on a day; it is the next one now."""

    def __init__(self, talktime: World, databases: WorkerDatabases) -> None:
        self.talktime = talktime
        self.owner = databases.urls.owner
        self.users: list[str] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.card = ""

    async def build(self) -> None:
        published = await self.talktime.client.post("/v1/rate-cards", json=CARD)
        assert published.status_code == 201, published.text
        self.card = published.json()["id"]
        for _ in range(4):
            user = self.talktime.user()
            await self.talktime.grant(user, "10000")
            self.users.append(user)
        talks = [(("agent", 20), ("silence", 3), ("user", 10)), (("user", 5.5), ("silence", 40), ("agent", 1)), ()]
        for n, talk in enumerate(talks):
            self.sessions[f"plain {n}"] = await self._settled(self.users[n % 2], *talk)
        self.sessions["refunded"] = await self._settled(self.users[2], ("agent", 10))
        body = {"amount": "5", "reason": "goodwill"}
        await self._post(self.sessions["refunded"], "refund", body)
        self.sessions["rated again"] = await self._settled(self.users[2], ("user", 10))
        half = await self.talktime.client.post("/v1/rate-cards", json={"name": "half", "rates": HALF})
        body = {"rate_card": half.json()["id"], "reason": "the wrong card"}
        await self._post(self.sessions["rated again"], "rerate", body)
        self.sessions["written off"] = await self._settled(self.users[3], ("agent", 30), ("agent", -1))
        assert self.sessions["written off"]["state"] == "review"
        await self._post(self.sessions["written off"], "review", {"action": "write_off", "reason": "broken"})
        self.talktime.clock.set(parse_instant("2026-03-03T00:00:00Z"))

    async def _settled(self, user: str, *talk: tuple[str, float]) -> dict[str, Any]:
        session = await self.talktime.start(user, time_limit_s=90, rate_card=self.card)
        await self.talktime.heartbeats_until(session, 90)
        self.talktime.provider.say(session["provider_session_id"], *talk)
        return await self.talktime.settle(session)

    async def _post(self, session: dict[str, Any], call: str, body: Any) -> None:
        response = await self.talktime.client.post(f"/v1/sessions/{session['id']}/{call}", json=body)
        assert response.is_success, response.text

    async def ask(self, rate_card: Any, **more: Any) -> str:
        response = await self.talktime.client.post(CALLS, json=asked(rate_card, **more))
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    async def told(self, simulation: str) -> dict[str, Any]:
        return dict(await self.talktime.get(f"{CALLS}/{simulation}"))

    async def result(self, rate_card: Any, **more: Any) -> dict[str, Any]:
        simulation = await self.ask(rate_card, **more)
        assert await self.talktime.service.simulate()
        told = await self.told(simulation)
        assert told["state"] == "done", told
        return dict(told["result"])

    def forget(self) -> None:
        tell(self.owner, "delete from simulations; delete from job_leases where job = 'simulations'")


def asked(rate_card: Any, **more: Any) -> dict[str, Any]:
    return {"rate_card": rate_card, "after": AFTER, "before": BEFORE, **more}


@pytest.fixture(scope="module")
async def built(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[Period]:
    with databases.fresh() as urls:
        async with world(urls.service, providers.script()) as talktime:
            found = Period(talktime, databases)
            found.owner = urls.owner
            await found.build()
            yield found


@pytest.fixture
def period(built: Period) -> Period:
    built.forget()
    built.talktime.clock.set(parse_instant("2026-03-03T00:00:00Z"))
    return built


# What it comes to


async def test_before_is_what_each_session_was_rated_at_last(period: Period) -> None:
    result = await period.result(period.card)
    plain = [(await period.talktime.session(period.sessions[f"plain {n}"]))["charged"] for n in range(3)]
    # 10 s of the agent, of which a part was refunded; 10 s of the user, which were rated again at half the price.
    assert Decimal(result["before"]) == sum(map(Decimal, plain)) + 20 + 5
    rise = result["largest_rise"]
    assert (rise["session_id"], rise["before"], rise["after"]) == (period.sessions["rated again"]["id"], "5", "10")
    assert (result["difference"], result["largest_fall"], result["sessions"]) == ("5", None, 5)
    assert [row["user_id"] for row in result["users_paying_more"]] == [period.users[2]]
    assert result["users"] == {"total": 3, "higher": 1, "lower": 0, "unchanged": 2}


async def test_the_total_after_by_the_same_card_is_the_total_before(period: Period) -> None:
    only = period.users[:2]
    tell(period.owner, "update sessions set persona = 'plain' where account_id in (select account_id from accounts"
         f" where user_id in ('{only[0]}', '{only[1]}'))")  # fmt: skip
    try:
        result = await period.result(period.card, persona="plain")
        doubled = await period.result(DOUBLED, persona="plain")
    finally:
        tell(period.owner, "update sessions set persona = 'tutor'")
    assert result["sessions"] == 3
    assert result["after"] == result["before"] == result["charged"] != "0"
    assert result["difference"] == "0"
    unchanged = [bucket for bucket in result["distribution"] if bucket["sessions"]]
    assert [(bucket["direction"], bucket["sessions"]) for bucket in unchanged] == [("unchanged", 3)]
    assert (result["users_paying_more"], result["largest_rise"], result["largest_fall"]) == ([], None, None)
    assert Decimal(doubled["after"]) == 2 * Decimal(doubled["before"]) == 2 * Decimal(result["before"])
    assert {row["user_id"] for row in doubled["users_paying_more"]} == set(only)
    assert doubled["users_paying_less"] == []
    assert sum(Decimal(row["difference"]) for row in doubled["users_paying_more"]) == Decimal(doubled["difference"])


async def test_what_users_are_charged_now_is_told_beside_it(period: Period) -> None:
    result = await period.result(period.card)
    statement = (
        "select -sum(e.amount) from entries e join sessions s on s.account_id = e.account_id and s.id = e.session_id"
        " where e.kind in ('charge', 'refund', 'rerate') and not s.written_off"
    )
    ((posted,),) = ask(period.owner, statement)
    assert Decimal(result["charged"]) * 1_000_000 == posted
    assert Decimal(result["before"]) - Decimal(result["charged"]) == 5  # what was given back


async def test_what_was_written_off_is_told_apart(period: Period) -> None:
    result = await period.result(DOUBLED)
    written_off = result["written_off"]
    assert written_off["sessions"] == 1
    assert (written_off["before"], written_off["after"]) == ("60", "120")
    named = {row["user_id"] for row in result["users_paying_more"]}
    assert period.users[3] not in named


async def test_the_margin_is_what_is_left_of_both(period: Period) -> None:
    result = await period.result(DOUBLED, provider_cost=COST)
    margin = result["margin"]
    assert Decimal(margin["before"]) == Decimal(result["before"]) - Decimal(margin["cost"])
    assert Decimal(margin["after"]) == Decimal(result["after"]) - Decimal(margin["cost"])
    alone = await period.result(COST)
    assert Decimal(margin["cost"]) == Decimal(alone["after"]) + Decimal(alone["written_off"]["after"]) > 0


async def test_a_session_that_was_cut_by_what_was_authorized_is_compared_uncut(period: Period) -> None:
    """The hold would have been sized by the other card: a ceiling of the old one would hide a rise."""
    result = await period.result({"name": "dear", "rates": {"user": "60000", "agent": "60000", "silence": "60000"}})
    ((authorized,),) = ask(period.owner, "select max(authorized) from sessions")
    assert Decimal(result["largest_rise"]["after"]) * 1_000_000 > authorized


async def test_only_sessions_of_the_period_count(period: Period) -> None:
    ((first, last),) = ask(
        period.owner,
        "select to_char(min(settled_at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),"
        " to_char(max(settled_at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from sessions",
    )
    everything = await period.result(DOUBLED)
    count = everything["sessions"] + everything["written_off"]["sessions"]
    without_last = await period.result(DOUBLED, after=first, before=last)
    assert without_last["sessions"] + without_last["written_off"]["sessions"] == count - 1
    later = format_instant(Instant(parse_instant(first) + 1))
    without_first = await period.result(DOUBLED, after=later)
    assert without_first["sessions"] + without_first["written_off"]["sessions"] == count - 1
    assert (await period.result(DOUBLED, scenario="nowhere"))["sessions"] == 0


async def test_what_cannot_be_rated_is_counted_with_its_reason(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0

    def odd(material: Material, what: Any) -> Priced | NotRated:
        nonlocal seen
        seen += 1
        if seen == 1:
            return pricing.price(replace_charge(material, engine_version="of yesteryear"), what)
        if seen == 2:
            return pricing.price(replace_charge(material, ticks=None), what)
        if seen == 3:
            return pricing.price(replace_charge(material, none=True), what)
        return pricing.price(material, what)

    monkeypatch.setattr(running, "price", odd)
    result = await period.result(DOUBLED)
    assert result["not_rated"] == {"no_charge": 1, "unknown_engine": 1, "unreadable": 1}
    assert result["sessions"] + result["written_off"]["sessions"] == 3


def replace_charge(material: Material, *, none: bool = False, **columns: Any) -> Material:
    class Changed:
        def __getattr__(self, name: str) -> Any:
            return columns[name] if name in columns else getattr(material.charge, name)

    changed: Any = None if none else Changed()
    return Material(
        session=material.session,
        user_id=material.user_id,
        charged=material.charged,
        charge=changed,
        card=material.card,
        snapshots=material.snapshots,
    )


async def test_nothing_but_the_simulation_itself_is_written(period: Period) -> None:
    tables = ("sessions", "charges", "entries", "accounts", "holds", "events", "snapshots", "rate_cards")
    sums = [f"select count(*), md5(string_agg(t::text, '' order by t::text)) from {table} t" for table in tables]
    before = [ask(period.owner, one) for one in sums]
    await period.result(DOUBLED, provider_cost=COST)
    assert [ask(period.owner, one) for one in sums] == before


# In the background


class Killed(BaseException):
    """As a process that is killed: nothing of ours catches it."""


async def test_a_simulation_that_was_killed_is_taken_up_and_comes_out_the_same(
    period: Period, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await period.result(DOUBLED, provider_cost=COST)
    monkeypatch.setattr(pricing, "AT_ONCE", 2)
    simulation = await period.ask(DOUBLED, provider_cost=COST)
    seen = 0

    def killing(material: Material, what: Any) -> Priced | NotRated:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise Killed
        return pricing.price(material, what)

    with monkeypatch.context() as patched:
        patched.setattr(running, "price", killing)
        with pytest.raises(Killed):
            await period.talktime.service._simulations.work()
    told = await period.told(simulation)
    assert (told["state"], told["progress"]) == ("running", {"sessions": 2, "total": 6})
    period.talktime.clock.advance(LEASE / US_PER_S + 1)
    # The next process knows nothing of the one before.
    other = Service(period.talktime.settings, period.talktime.service.database.conninfo, clock=period.talktime.clock)
    priced: list[str] = []

    def counting(material: Material, what: Any) -> Priced | NotRated:
        priced.append(material.session.public_id)
        return pricing.price(material, what)

    with monkeypatch.context() as patched:
        patched.setattr(running, "price", counting)
        assert await other.simulate()
    await other.database.close()
    told = await period.told(simulation)
    assert (told["state"], told["progress"]) == ("done", {"sessions": 6, "total": 6})
    assert told["result"] == whole
    assert len(priced) == 4  # what was stored is not priced again


async def test_pages_that_hold_nothing_of_the_period_are_passed_by(
    period: Period, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await period.result(DOUBLED)
    monkeypatch.setattr(pricing, "SCANNED", 1)
    monkeypatch.setattr(pricing, "TOGETHER", 1)
    assert await period.result(DOUBLED) == whole
    assert (await period.result(DOUBLED, after="2026-02-01T00:00:00Z", before="2026-02-02T00:00:00Z"))["sessions"] == 0


async def test_two_processes_do_not_both_run_it(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    await period.ask(DOUBLED)
    other = Service(period.talktime.settings, period.talktime.service.database.conninfo, clock=period.talktime.clock)
    begun, gate = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    times = 0

    def slow(material: Material, what: Any) -> Priced | NotRated:
        nonlocal times
        times += 1
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
        return pricing.price(material, what)

    monkeypatch.setattr(running, "price", slow)
    first = asyncio.create_task(period.talktime.service.simulate())
    await begun.wait()
    assert await other.simulate() is False
    gate.set()
    assert await first is True
    assert await other.simulate() is False
    await other.database.close()
    assert times == 6


async def test_who_stalled_while_another_took_over_writes_nothing(
    period: Period, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = await period.ask(DOUBLED)
    other = Service(period.talktime.settings, period.talktime.service.database.conninfo, clock=period.talktime.clock)
    begun, gate = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stalled(_material: Material, _what: Any) -> Priced | NotRated:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
        return NotRated.UNREADABLE  # so that it would show

    with monkeypatch.context() as patched:
        patched.setattr(running, "price", stalled)
        first = asyncio.create_task(period.talktime.service.simulate())
        await begun.wait()
    period.talktime.clock.advance(LEASE / US_PER_S + 1)
    assert await other.simulate() is True
    done = await period.told(simulation)
    assert done["state"] == "done"
    monkeypatch.setattr(running, "price", stalled)
    gate.set()
    await first
    await other.database.close()
    assert await period.told(simulation) == done


async def test_a_stop_leaves_it_to_the_next_process(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "AT_ONCE", 2)
    simulation = await period.ask(DOUBLED)
    conninfo = period.talktime.service.database.conninfo
    stopped = Service(period.talktime.settings, conninfo, clock=period.talktime.clock)

    def stopping(material: Material, what: Any) -> Priced | NotRated:
        stopped._simulations.stop()
        return pricing.price(material, what)

    with monkeypatch.context() as patched:
        patched.setattr(running, "price", stopping)
        assert await stopped.simulate() is True
    assert await stopped.simulate() is False
    await stopped.database.close()
    assert (await period.told(simulation))["state"] == "running"
    assert await period.talktime.service.simulate()  # at once: the lease was given back
    assert (await period.told(simulation))["state"] == "done"


async def test_a_turn_ends_and_the_next_goes_on(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await period.result(DOUBLED)
    monkeypatch.setattr(pricing, "AT_ONCE", 2)
    simulation = await period.ask(DOUBLED)

    def slow(material: Material, what: Any) -> Priced | NotRated:
        period.talktime.clock.advance(10)
        return pricing.price(material, what)

    monkeypatch.setattr(running, "price", slow)
    seen = []
    for _ in range(4):
        assert await period.talktime.service.simulate()
        seen.append((await period.told(simulation))["progress"]["sessions"])
    assert seen == [2, 4, 6, 6]
    assert (await period.told(simulation))["result"] == whole


async def test_a_simulation_that_breaks_says_so_and_holds_up_no_other(
    period: Period, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await period.ask(DOUBLED)
    period.talktime.clock.advance(1)
    other = await period.ask(COST)

    def breaking(_material: Material, _what: Any) -> Priced | NotRated:
        raise AssertionError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(running, "price", breaking)
        assert await period.talktime.service.simulate()
    told = await period.told(broken)
    assert (told["state"], told["result"]) == ("failed", None)
    assert "log" in told["failure"]
    assert await period.talktime.service.simulate()
    assert (await period.told(other))["state"] == "done"


async def test_one_that_comes_no_further_is_given_up(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = await period.ask(DOUBLED)

    def killing(_material: Material, _what: Any) -> Priced | NotRated:
        raise Killed

    monkeypatch.setattr(running, "price", killing)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Killed):
            await period.talktime.service._simulations.work()
        period.talktime.clock.advance(LEASE / US_PER_S + 1)
    assert await period.talktime.service.simulate()
    told = await period.told(simulation)
    assert (told["state"], told["failure"]) == ("failed", GIVEN_UP)
    assert await period.talktime.service.simulate() is False


async def test_the_loop_is_free_between_sessions(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    await period.ask(DOUBLED)
    turns = 0

    async def heartbeats() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    inside: list[int] = []

    def seen(material: Material, what: Any) -> Priced | NotRated:
        before = turns
        while turns == before:  # ends only if the loop runs on while this thread is busy
            pass
        inside.append(turns - before)
        return pricing.price(material, what)

    monkeypatch.setattr(running, "price", seen)
    ticking = asyncio.create_task(heartbeats())
    async with asyncio.timeout(60):
        await period.talktime.service.simulate()
    ticking.cancel()
    assert len(inside) == 6


# Asking


async def test_only_so_many_may_wait(period: Period) -> None:
    for _ in range(MAX_UNFINISHED):
        await period.ask(CARD)
    client = period.talktime.client
    refused = problem(await client.post(CALLS, json=asked(CARD)), 409, "too-many-simulations")
    assert str(MAX_UNFINISHED) in refused["detail"]
    assert await period.talktime.service.simulate()
    await period.ask(CARD)


async def test_they_take_turns_in_the_order_of_asking(period: Period) -> None:
    first = await period.ask(CARD)
    period.talktime.clock.advance(1)
    second = await period.ask(DOUBLED)
    await period.talktime.service.simulate()
    assert [(await period.told(one))["state"] for one in (first, second)] == ["done", "waiting"]


async def test_old_ones_are_forgotten(period: Period) -> None:
    old = await period.ask(CARD)
    clock, database = period.talktime.clock, period.talktime.service.database
    clock.advance(KEPT / US_PER_S - 1)
    assert await purge_simulations(database, clock.now()) == 0
    young = await period.ask(CARD)
    clock.advance(1)
    await period.talktime.service.purge()
    problem(await period.talktime.client.get(f"{CALLS}/{old}"), 404, "not-found")
    assert (await period.told(young))["state"] == "waiting"
    assert KEPT == 30 * US_PER_DAY


async def test_the_list_comes_in_pages_newest_first(period: Period) -> None:
    made = []
    for n in range(5):
        told = await period.told(await period.ask({**CARD, "name": f"card {n}"}))
        made.append((told["created_at"], told["id"]))
        period.talktime.clock.advance(n % 2)  # some are of the same instant
    seen: list[str] = []
    cursor = ""
    while True:
        page = await period.talktime.get(f"{CALLS}?limit=2{cursor}")
        seen += [row["id"] for row in page["data"]]
        assert all("result" not in row for row in page["data"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [one for _, one in sorted(made, reverse=True)]
    for wrong in ("x", "WzJd"):
        problem(await period.talktime.client.get(f"{CALLS}?cursor={wrong}"), 422)


async def test_the_same_key_asks_once(period: Period) -> None:
    headers = {"Idempotency-Key": f"what-if-{period.talktime.user()}"}
    first = await period.talktime.client.post(CALLS, json=asked(CARD), headers=headers)
    again = await period.talktime.client.post(CALLS, json=asked(CARD), headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert len((await period.talktime.get(CALLS))["data"]) == 1


async def test_it_says_what_it_was_asked(period: Period) -> None:
    draft = {**CARD, "effective_at": "2027-01-01T00:00:00Z", "match": {"persona": "tutor"}}
    told = await period.told(await period.ask(draft, provider_cost=period.card, persona="tutor"))
    assert (told["rate_card"]["id"], told["rate_card"]["name"], told["rate_card"]["rates"]) == (None, "what-if", RATES)
    assert (told["provider_cost"]["id"], told["provider_cost"]["version"]) == (period.card, 1)
    assert (told["persona"], told["scenario"], told["state"]) == ("tutor", None, "waiting")
    assert told["progress"] == {"sessions": 0, "total": None}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/rate_card"),
        (asked(CARD, after=BEFORE, before=AFTER), "/before"),
        (asked(CARD, after=BEFORE), "/before"),
        (asked(CARD, before="2026-03-03T00:00:00.000001Z"), "/before"),
        (asked(CARD, after="yesterday"), "/after"),
        (asked({"name": "x"}), "/rate_card/rates"),
        (asked({**CARD, "rates": {**RATES, "user": 1}}), "/rate_card/rates/user"),
        (asked(7), "/rate_card"),
        (asked([]), "/rate_card"),
        (asked(None), "/rate_card"),
        (asked("rc_" + "0" * 26), "/rate_card"),
        (asked("no\x00card"), "/rate_card"),
        (asked(CARD, provider_cost="nobody's"), "/provider_cost"),
        (asked(CARD, provider_cost={"name": "x", "rates": RATES, "more": 1}), "/provider_cost/more"),
        (asked(CARD, provider_cost={"name": "x", "rates": dict.fromkeys(RATES, "0")}), "/provider_cost/rates"),
        (asked(CARD, persona=""), "/persona"),
        (asked(CARD, unknown=1), "/unknown"),
    ],
)
async def test_bad_input_says_where_and_asks_for_nothing(period: Period, body: Any, pointer: str) -> None:
    refused = problem(await period.talktime.client.post(CALLS, json=body), 422)
    assert pointer in {error["pointer"] for error in refused["errors"]}
    assert (await period.talktime.get(CALLS))["data"] == []


async def test_one_that_is_not_there_is_not_found(period: Period) -> None:
    for missing in ("sim_" + "0" * 26, "rc_" + "0" * 26, "x"):
        problem(await period.talktime.client.get(f"{CALLS}/{missing}"), 404, "not-found")


async def test_the_template_asks_for_its_prices_and_is_a_card_once_it_has_them(period: Period) -> None:
    (template,) = (await period.talktime.get("/v1/rate-cards/templates"))["data"]
    card = template["rate_card"]
    assert template["placeholders"] == list(PROVIDER_COST.placeholders)
    refused = await period.talktime.client.post(CALLS, json=asked(CARD, provider_cost=card))
    assert problem(refused, 422)["errors"][0]["pointer"] == "/provider_cost/rates"
    card["rates"] = dict.fromkeys(card["rates"], "60")
    margin = (await period.result(CARD, provider_cost=card))["margin"]
    # Whole seconds at a credit each: 33 + 12 of talk; of silences 3 and 5, and 5 after each last word; and so on.
    assert Decimal(margin["cost"]) % 1 == 0
    assert Decimal(margin["cost"]) > 0


# The command


async def test_the_command_says_the_same(period: Period, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = await period.result(DOUBLED, provider_cost=COST)
    (tmp_path / "card.json").write_text(json.dumps(DOUBLED))
    (tmp_path / "cost.json").write_text(json.dumps(COST))
    monkeypatch.setenv("TALKTIME_DATABASE_URL", period.talktime.service.database.conninfo)
    words = ["simulate", str(tmp_path / "card.json"), "--after", AFTER, "--before", BEFORE]
    words += ["--provider-cost", str(tmp_path / "cost.json")]

    def run(*more: str) -> Any:
        return CliRunner().invoke(cli, [*words, *more], env={"COLUMNS": "200"})

    told = await asyncio.to_thread(run, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["result"] == result
    shown = await asyncio.to_thread(run)
    assert shown.exit_code == 0, shown.output
    for text in (result["before"], result["after"], result["margin"]["cost"], *period.users[:2], "over 50 % to 100 %"):
        assert text in shown.stdout
    assert len((await period.talktime.get(CALLS))["data"]) == 1  # nothing was stored by the command


async def test_the_command_takes_an_id_and_says_what_is_wrong(period: Period, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", period.talktime.service.database.conninfo)

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["simulate", *words, "--after", AFTER, "--before", BEFORE])

    by_id = await asyncio.to_thread(run, period.card, "--json")
    assert by_id.exit_code == 0, by_id.output
    assert json.loads(by_id.stdout)["rate_card"]["id"] == period.card
    missing = await asyncio.to_thread(run, "no/such/file")
    assert missing.exit_code == 2
    assert "rc_ and 26 characters" in missing.output
