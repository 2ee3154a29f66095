"""The roll-forward of any period adds up, and agrees with what the accounts held at both ends."""

import bisect
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from random import Random

import pytest

from app.core.units import Instant, MicroCredits, format_credits, format_instant
from tests.support.ledger_play import Known, LedgerPlay
from tests.support.postgres import WorkerDatabases, ask
from tests.support.scripted_provider import ProviderHost
from tests.support.world import World, world

pytestmark = pytest.mark.anyio

COLUMNS = ("opening", "issued", "consumed", "expired", "voided", "corrections", "closing")
FORMS = ("", "_value", "_without_cost_basis")
KINDS = ("paid", "promotional", "credit", "total")
SEEN = """
select count(*) from funding where amount < 0 and grant_id is null
union all select count(*) from funding where amount > 0 and debit_entry_id <> entry_id
union all select count(*) from funding f join entries e on e.account_id = f.account_id and e.id = f.entry_id
          where f.amount < 0 and e.grant_id is not null
union all select count(*) from entries where kind = 'void' and session_id is not null
union all select count(*) from entries where kind = 'expiry' and session_id is not null
"""
"""Credit given back; debt repaid; goodwill; and what was given back to or freed of closed grants."""

USERS = ("ada", "bob", "cy", "dee")


@pytest.fixture
def database_url(databases: WorkerDatabases) -> Iterator[str]:
    with databases.fresh() as urls:
        yield urls.service


async def roll_forward(talktime: World, **period: Instant | None) -> dict[str, dict[str, str]]:
    named = {name: format_instant(at) for name, at in period.items() if at is not None}
    response = await talktime.client.get("/v1/finance/roll-forward", params=named)
    assert response.status_code == 200, response.text
    rows = {row.pop("kind"): row for row in response.json()["rows"]}
    assert tuple(rows) == KINDS
    return rows


def adds_up(rows: dict[str, dict[str, str]]) -> None:
    for row in rows.values():
        for form in FORMS:
            opening, issued, consumed, expired, voided, corrections, closing = (
                Decimal(row[name + form]) for name in COLUMNS
            )
            assert opening + issued - consumed - expired - voided + corrections == closing
    for name in (name + form for name in COLUMNS for form in FORMS):
        assert sum(Decimal(rows[kind][name]) for kind in KINDS[:3]) == Decimal(rows["total"][name])


def at_instant(history: list[Known], at: Instant) -> dict[str, Known]:
    """What was known of each user just before ``at``."""
    return {known.user: known for known in history[: bisect.bisect_left(history, at, key=lambda known: known.at)]}


def expected(known: dict[str, Known]) -> dict[str, tuple[Decimal, Decimal, Decimal]]:
    """By kind: what remained, its value, and what had no cost basis."""
    remaining: Counter[tuple[str, int | None]] = Counter()
    for one in known.values():
        remaining.update(one.remaining)
    found = {"credit": (Decimal(-sum(one.debt for one in known.values())).scaleb(-6), Decimal(0), Decimal(0))}
    for kind in ("paid", "promotional"):
        of_kind = {basis: amount for (name, basis), amount in remaining.items() if name == kind}
        value = sum(amount * (basis or 0) for basis, amount in of_kind.items())
        found[kind] = (
            Decimal(sum(of_kind.values())).scaleb(-6),
            Decimal(value).scaleb(-12),
            Decimal(of_kind.get(None, 0)).scaleb(-6),
        )
    return found


@pytest.mark.parametrize("seed", [1, 2])
async def test_any_period_adds_up_and_agrees_with_the_accounts_at_both_ends(
    database_url: str, providers: ProviderHost, seed: int
) -> None:
    async with world(database_url, providers.script()) as talktime:
        random = Random(seed)
        play = LedgerPlay(talktime.service.database, talktime.service.ledger, talktime.clock, random, USERS)
        await play.play(400)
        assert min(play.done.values()) > 2, play.done
        assert all(count for (count,) in ask(database_url, SEEN)), "a kind of funding was never seen"
        talktime.clock.advance(1)
        history = play.history
        ends = [*random.sample([known.at for known in history], 12), Instant(history[0].at - 1), talktime.clock.now()]
        for _ in range(12):
            after, before = sorted(random.sample(ends, 2))
            if random.random() < 0.3:
                before = Instant(before + 1) if before < talktime.clock.now() else before
            if after == before:
                continue
            rows = await roll_forward(talktime, after=after, before=before)
            adds_up(rows)
            for at, name in ((after, "opening"), (before, "closing")):
                for kind, figures in expected(at_instant(history, at)).items():
                    assert tuple(Decimal(rows[kind][name + form]) for form in FORMS) == figures, (kind, name)
        await periods_chain(talktime, sorted(random.sample(ends, 3)))
        whole = await roll_forward(talktime)
        assert whole["total"]["opening"] == "0"
        balance = sum(known.balance for known in at_instant(history, talktime.clock.now()).values())
        assert whole["total"]["closing"] == format_credits(MicroCredits(balance))
        for column in COLUMNS[1:]:
            assert whole["total"][column] != "0", column


async def periods_chain(talktime: World, ends: list[Instant]) -> None:
    first, second, whole = [
        await roll_forward(talktime, after=ends[a], before=ends[b]) for a, b in ((0, 1), (1, 2), (0, 2))
    ]
    for kind in KINDS:
        for form in FORMS:
            assert first[kind]["closing" + form] == second[kind]["opening" + form]
            for name in COLUMNS[1:-1]:
                parts = Decimal(first[kind][name + form]) + Decimal(second[kind][name + form])
                assert parts == Decimal(whole[kind][name + form])


async def test_balances_of_the_past_are_what_was_known_then(database_url: str, providers: ProviderHost) -> None:
    async with world(database_url, providers.script()) as talktime:
        play = LedgerPlay(talktime.service.database, talktime.service.ledger, talktime.clock, Random(4), USERS)
        await play.play(250)
        for at in {known.at for known in play.history} | {Instant(play.history[0].at - 1)}:
            before = at_instant(play.history, Instant(at + 1))
            for user in USERS:
                balance = await talktime.get(f"/v1/users/{user}/balance?at={format_instant(at)}")
                known = before.get(user)
                told = [0, 0, 0] if known is None else [known.balance, known.held, known.limit]
                available = told[0] + told[2] - told[1]
                assert balance == {
                    "user_id": user,
                    "balance": format_credits(MicroCredits(told[0])),
                    "held": format_credits(MicroCredits(told[1])),
                    "available": format_credits(MicroCredits(available)),
                    "credit_limit": format_credits(MicroCredits(told[2])),
                    "accrued": None,
                    "talk_time_s": None,
                    "expiring_next": None,
                    "as_of": format_instant(at),
                }
