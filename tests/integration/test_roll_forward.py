"""The roll-forward of any period adds up, and agrees with what the accounts held at both ends."""

import bisect
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import text

from app.core.account import BrokenLedger
from app.core.corrections import Correction, adjust_up, give_back
from app.core.entries import EntryKind
from app.core.ids import Kind, account_id_of, parse_public_id
from app.core.ledger import GrantKind, GrantState
from app.core.units import Instant, MicroCredits, format_credits, format_instant, parse_instant
from app.finance.documents import format_money
from app.finance.roll_forward import Period
from app.finance.roll_forward import roll_forward as found_by
from app.ledger.book import Book, GrantTerms
from app.ledger.opening import open_book
from tests.support.ledger_play import Known, LedgerPlay
from tests.support.postgres import WorkerDatabases, ask, tell
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
        booked = sorted({known.at for known in play.history})
        for at in [Instant(booked[0] - 1), *Random(5).sample(booked, 60), booked[-1]]:
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


async def test_the_worked_example_comes_out_as_the_document_says(database_url: str, providers: ProviderHost) -> None:
    document = (
        (Path(__file__).parents[2] / "docs" / "finance.md").read_text(encoding="utf-8").partition("## An example")[2]
    )
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if "---" not in line]
        for block in re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE)
        if block.startswith("| kind")
    ]
    assert [len(table) for table in tables] == [5, 5]
    async with world(database_url, providers.script()) as talktime:
        await tell_example(talktime)
        rows = await roll_forward(
            talktime, after=parse_instant("2026-03-02T00:00:00Z"), before=parse_instant("2026-04-01T00:00:00Z")
        )
        adds_up(rows)
        for header, *lines in tables:
            for kind, *cells in lines:
                assert [rows[kind][name] for name in header[1:]] == cells, kind
        assert rows["total"]["closing_without_cost_basis"] == "3"
        assert rows["total"]["opening_without_cost_basis"] == "25"
        await the_same_as_csv(talktime, rows)


async def tell_example(talktime: World) -> None:
    def day(n: int) -> None:
        talktime.clock.set(parse_instant(f"2026-03-{n:02}T12:00:00Z"))

    async def at_the_book(user: str, work: Callable[[Book], object], correcting: UUID | None = None) -> None:
        ledger, now = talktime.service.ledger, talktime.clock.now()
        async with talktime.service.database.transaction() as transaction:
            book = await open_book(transaction, ledger, account_id_of(user), now, correcting=correcting)
            assert book is not None
            work(book)
            await book.close()

    def gift(whole: int) -> GrantTerms:
        return GrantTerms(
            amount=MicroCredits(whole * 1_000_000),
            kind=GrantKind.PROMOTIONAL,
            priority=50,
            effective_at=talktime.clock.now(),
            expires_at=None,
            cost_basis=None,
            reference=None,
            metadata={},
        )

    await talktime.grant("ada", "100", cost_basis="0.1")
    await talktime.grant("ada", "25", kind="promotional", expires_at="2026-03-05T12:00:00Z")
    await talktime.grant("bob", "5", cost_basis="0.2")
    await at_the_book("bob", lambda book: book.change_credit_limit(MicroCredits(30_000_000), "good customer"))
    day(2)
    for user in ("ada", "bob"):
        session = await talktime.start(user, time_limit_s=30)
        talktime.provider.say(session["provider_session_id"], ("agent", 10), ("user", 10))
        talktime.clock.advance(30)
        assert (await talktime.heartbeat(session)).status_code == 204
        settled = await talktime.settle(session)
        assert settled["charged"] == "20"
        if user == "ada":
            ada = talktime.key(session).id
    day(3)
    await talktime.grant("bob", "10", cost_basis="0.2")
    mistake = await talktime.grant("cy", "10", kind="promotional")
    grant = parse_public_id(Kind.GRANT, mistake["id"])
    assert grant is not None
    await at_the_book("cy", lambda book: book.account.void(grant.id, "by mistake"))
    day(4)
    why = Correction(kind=EntryKind.REFUND, natural_key="refund:1", reason="complaint", session_id=ada)

    def refund(book: Book) -> None:
        eight = MicroCredits(8_000_000)
        assert not give_back(
            book.account, book.debits, eight, why, now=book.now, goodwill=lambda _: pytest.fail("nothing had expired")
        )

    await at_the_book("ada", refund, ada)
    day(6)

    def apologise(book: Book) -> None:
        given, document = book.new_grant(gift(3), GrantState.ACTIVE)
        adjust_up(book.account, given, document, cause="1", reason="an apology")

    await at_the_book("ada", apologise)
    talktime.clock.set(parse_instant("2026-04-02T00:00:00Z"))


async def the_same_as_csv(talktime: World, rows: dict[str, dict[str, str]]) -> None:
    response = await talktime.client.get(
        "/v1/finance/roll-forward?after=2026-03-02T00:00:00Z&before=2026-04-01T00:00:00Z",
        headers={"Accept": "text/csv"},
    )
    assert response.headers["content-disposition"] == (
        'attachment; filename="roll-forward-2026-03-02T00_00_00-2026-04-01T00_00_00.csv"'
    )
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert {row.pop("kind"): row for row in read} == rows


@pytest.mark.parametrize(
    ("period", "pointer"),
    [
        ("after=2026-03-01T12:00:01Z", "/after"),
        ("before=2026-03-01T12:00:01Z", "/before"),
        ("after=2026-02-02T00:00:00Z&before=2026-02-01T00:00:00Z", "/before"),
        ("after=2026-02-01T00:00:00Z&before=2026-02-01T00:00:00Z", "/before"),
        ("after=march", "/after"),
    ],
)
async def test_a_period_that_is_none_is_refused(talktime: World, period: str, pointer: str) -> None:
    response = await talktime.client.get(f"/v1/finance/roll-forward?{period}")
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_before_the_first_entry_all_is_zero(talktime: World) -> None:
    rows = await roll_forward(talktime, before=parse_instant("2020-01-01T00:00:00Z"))
    assert {value for row in rows.values() for value in row.values()} == {"0"}


FORGED = (
    "insert into entries select account_id, gen_random_uuid(), 9, 'forged', '{}', -1, 0, null, {}, null, null, null, "
)
FORGED += "created_at, key_id, mac from entries limit 1"
TAMPERED = [
    "update grants set remaining = remaining - 1 where state = 'active'",
    "update accounts set debt = debt + 1",
    "insert into postings select account_id, entry_id, 9, ledger_account, 1 from postings limit 1",
    "insert into funding select account_id, id, 0, id, grant_id, 1 from entries limit 1",
    FORGED.format("void", "grant_id"),
    FORGED.format("charge", "grant_id"),
]


async def test_a_ledger_that_does_not_add_up_gives_no_figures(database_url: str, providers: ProviderHost) -> None:
    async with world(database_url, providers.script()) as talktime:
        await talktime.grant("ada", "100")
        for tampering in TAMPERED:
            with pytest.raises(BrokenLedger):
                await after(talktime, tampering)
        await roll_forward(talktime)
        tell(database_url, TAMPERED[-1])
        response = await talktime.client.get("/v1/finance/roll-forward")
        assert (response.status_code, response.json()["type"]) == (500, "/problems/internal-error")


async def after(talktime: World, tampering: str) -> None:
    """The roll-forward after ``tampering``, which is rolled back by what that raises."""
    async with talktime.service.database.transaction() as transaction:
        await transaction.execute(text(tampering))
        await found_by(transaction, Period(None, None))


def test_money_is_exact() -> None:
    assert [format_money(value) for value in (0, 1, -1, 10**12, -5 * 10**11, 123_456 * 10**12 + 10**4)] == [
        "0",
        "0.000000000001",
        "-0.000000000001",
        "1",
        "-0.5",
        "123456.00000001",
    ]


async def test_what_repays_an_adjustment_is_no_consumption(database_url: str, providers: ProviderHost) -> None:
    async with world(database_url, providers.script()) as talktime:
        user = talktime.user()
        body = {"amount": "-50", "reason": "chargeback", "allow_below_floor": True}
        assert (await talktime.client.post(f"/v1/users/{user}/adjustments", json=body)).status_code == 201
        await talktime.grant(user, "50", cost_basis="0.1")
        talktime.clock.advance(1)
        rows = await roll_forward(talktime)
        adds_up(rows)
        told = ("issued", "consumed", "consumed_value", "corrections", "corrections_value", "closing")
        assert [rows["paid"][name] for name in told] == ["50", "0", "0", "-50", "-5", "0"]
        assert [rows["credit"][name] for name in told] == ["0", "0", "0", "0", "0", "0"]
        assert [rows["total"][name] for name in told] == ["50", "0", "0", "-50", "-5", "0"]
