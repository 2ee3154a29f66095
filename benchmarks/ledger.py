"""Balances and statements of an account with a million entries against one with a thousand; the speed of CSV."""

import asyncio
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from app.accounts.balances import balance_document, past_balance_document
from app.accounts.statements import CSV_HEADER, EntryFilter, entry_filter, statement_page, statement_rows
from app.core.ids import account_id_of
from app.core.units import US_PER_S, Instant, Micros, parse_instant
from app.db.database import Database, Transaction
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import migrate
from app.http.csv_answers import csv_response
from app.ports.clock import SystemClock
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.pricing.cards import ensure_default_card
from benchmarks.figures import Figure
from tests.support.many_entries import fill

FEW, MANY = 1_000, 1_000_000
ROUNDS = 5
SECONDS = 0.5
CSV_ROWS = 100_000
TRACED_ROWS = 20_000
FIRST = parse_instant("2026-01-01T00:00:00Z")
LONGEST = Micros(3600 * US_PER_S)

Read = Callable[[Transaction, str, int], Awaitable[object]]


async def _now(transaction: Transaction, user: str, entries: int) -> object:
    return (await balance_document(transaction, user, Instant(FIRST + 2 * MANY * US_PER_S), LONGEST, None))["balance"]


async def _past(transaction: Transaction, user: str, entries: int) -> object:
    at = Instant(FIRST + entries // 2 * US_PER_S)
    return (await past_balance_document(transaction, user, at, at))["balance"]


async def _page(transaction: Transaction, user: str, entries: int) -> object:
    wanted = entry_filter(before=Instant(FIRST + (entries // 2 + 1) * US_PER_S))
    return (await statement_page(transaction, user, wanted, limit=50, cursor=None))["data"][0]["balance_after"]


def measure() -> list[Figure]:
    """Reads of both accounts in turn, each checked; then CSV against the same rows as the driver gives them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root the server runs as another account
        server = EmbeddedPostgres(Path(folder) / "data")
        urls = server.start()
        try:
            migrate(urls.owner, make_url(urls.service).username)
            for user, count in (("few", FEW), ("many", MANY)):
                fill(urls.superuser, urls.service, user, count)
            return asyncio.run(_figures(urls.service))
        finally:
            server.stop()


async def _figures(url: str) -> list[Figure]:
    database = Database(url, pool_size=1)
    try:
        async with database.transaction() as transaction:
            clock = SystemClock()
            await ensure_default_card(transaction, TimeOrderedIds(clock, SystemRandomness()), clock.now())
        figures = [
            await _reads(database, what, read, right)
            for what, read, right in (
                ("balance now", _now, lambda entries: entries),
                ("balance at an instant in the middle", _past, lambda entries: entries // 2),
                ("a statement's page of 50 in the middle", _page, lambda entries: entries // 2),
            )
        ]
        return [*figures, await _csv(database)]
    finally:
        await database.close()


async def _reads(database: Database, what: str, read: Read, right: Callable[[int], int]) -> Figure:
    async def rate(user: str, entries: int) -> float:
        done, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < SECONDS:
            async with database.reading() as transaction:
                found = await read(transaction, user, entries)
            if found != f"{right(entries) / 1_000_000:.6f}".rstrip("0").rstrip("."):
                raise RuntimeError(f"{what}: {found} of {entries} entries")
            done += 1
        return done / passed

    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        theirs.append(await rate("few", FEW))
        ours.append(await rate("many", MANY))
    return Figure(
        f"{what}, {MANY:,} entries in the account", f"{FEW:,} entries", "a second", ours, theirs, "the right balances"
    )


async def _csv(database: Database) -> Figure:
    before = Instant(FIRST + (CSV_ROWS + 1) * US_PER_S)
    bare = "select * from entries where account_id = %s and created_at < '2026-01-01Z'::timestamptz + "
    bare += f"{CSV_ROWS + 1} * interval '1 second' order by seq desc"
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(3):
        begun = time.perf_counter()
        async with await psycopg.AsyncConnection.connect(database.conninfo) as connection:
            cursor = connection.cursor("bare")
            cursor.itersize = 1_000
            await cursor.execute(bare.encode(), [account_id_of("many")])
            found = 0
            async for _row in cursor:
                found += 1
        theirs.append(found / (time.perf_counter() - begun))
        begun = time.perf_counter()
        rows = await _streamed(database, EntryFilter(before=before))
        ours.append(rows / (time.perf_counter() - begun))
        if (rows, found) != (CSV_ROWS, CSV_ROWS):
            raise RuntimeError(f"{rows} and {found} rows of {CSV_ROWS}")
    peaks = []
    for rows in (TRACED_ROWS // 4, TRACED_ROWS):
        tracemalloc.start()
        await _streamed(database, EntryFilter(before=Instant(FIRST + (rows + 1) * US_PER_S)))
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    told = (
        f"{CSV_ROWS:,} rows each; at most {peaks[1]:.1f} MB for {TRACED_ROWS:,} rows, {peaks[0]:.1f} MB for a quarter"
    )
    return Figure("rows of a statement as CSV", "the rows alone by a bare cursor", "a second", ours, theirs, told)


async def _streamed(database: Database, wanted: EntryFilter) -> int:
    """The lines of the streamed answer, less its header."""
    response = await csv_response("many", CSV_HEADER, statement_rows(database, "many", wanted))
    lines = 0
    async for chunk in response.body_iterator:
        lines += str(chunk).count("\r\n")
    return lines - 1
