"""Every list with a million users against the same with a thousand: ``python -m benchmarks.lists``.

Each list is asked for as a client and a browser do, at its first page, in the middle and at its end, in both databases
in turn; what comes back must begin with the row that SQL says it must. ``--users`` and ``--entries`` scale the large
one: ``python -m benchmarks.lists --users 5000 --entries 50000`` takes a minute.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import psycopg
from sqlalchemy import make_url

from app.core.ids import Kind, account_id_of, public_id
from app.core.units import US_PER_DAY, Instant, datetime_of, instant_of
from app.db.database import Database
from app.db.embedded import DatabaseUrls, EmbeddedPostgres
from app.db.migrate import migrate
from app.http.pages import DEFAULT_LIMIT, make_cursor
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SystemRandomness
from app.pricing.cards import ensure_default_card
from app.web.overview import Overview
from benchmarks.figures import put_section
from benchmarks.many_users import (
    KEY,
    LARGE_USER,
    NOW,
    RARE_ACTION,
    RARE_ACTOR,
    RARE_EVENT,
    RARE_KIND,
    fill,
)
from tests.support.clock import ManualClock
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import ADMIN_KEY, World, world

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
SMALL: Final = (1_000, 10_000)
LARGE: Final = (1_000_000, 10_000_000)
ROUNDS: Final = 7
MOST_RATIO: Final = 2.0
"""A list is constant if none of its pages takes more than so many times its counterpart,"""

MOST_MORE_MS: Final = 4.0
"""or at least not so much more, which of a page of 2 ms is chance."""

LEFT_AT_END: Final = 20
"""Rows of the last page."""

_MIDDLE_OF_YEAR: Final = datetime_of(Instant(NOW - 180 * US_PER_DAY))
_LATER: Final = datetime_of(Instant(NOW - 60 * US_PER_DAY))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table in their order. ``keys``: what a cursor holds of the last one; ``shown``: stands on the page."""

    table: str
    keys: tuple[str, ...]
    down: bool
    shown: Callable[[Any], str]
    rows: int = DEFAULT_LIMIT

    def after(self, connection: psycopg.Connection[Any], where: str, row: int) -> tuple[str, str]:
        """A cursor behind the ``row``-th one, and what the page then begins with."""
        direction = "desc" if self.down else "asc"
        statement = (
            f"select account_id, id, {', '.join(self.keys)} from {self._source} where {where or 'true'} "
            f"order by {', '.join(f'{key} {direction}' for key in self.keys)} offset {row - 1} limit 2"
        )
        last, first = connection.execute(statement.encode()).fetchall()
        return make_cursor(*map(_told, self._position(last))), self.shown(first)

    def count(self, connection: psycopg.Connection[Any], where: str) -> int:
        statement = f"select count(*) from {self._source} where {where or 'true'}"
        (row,) = connection.execute(statement.encode()).fetchall()
        return int(row[0])

    @property
    def _source(self) -> str:
        if self.table == "accounts":
            return "(select *, account_id as id, balance + credit_limit - held as available from accounts) accounts"
        return self.table

    def _position(self, row: Sequence[Any]) -> Sequence[Any]:
        # A list by a user's id holds the account, by which the id is found.
        return row[3:] if self.keys[0].startswith("lower") else row[2:]


def _told(value: Any) -> int | str:
    if isinstance(value, int):
        return value
    return instant_of(value) if hasattr(value, "tzinfo") else str(value)


def _id(kind: Kind) -> Callable[[Any], str]:
    return lambda row: public_id(kind, row[0], row[1])


BY_ID: Final = """lower(user_id) collate "C\""""
_USER: Final = "user-"  # of whom it is, the position says
USERS: Final = Rows("accounts", (BY_ID, "id"), False, lambda row: str(row[2]))
USERS_DOWN: Final = Rows("accounts", (BY_ID, "id"), True, lambda row: str(row[2]))
LOW: Final = Rows("accounts", ("available", "id"), False, lambda _: _USER)
HIGH: Final = Rows("accounts", ("available", "id"), True, lambda _: _USER)
SESSIONS: Final = Rows("sessions", ("requested_at", "id"), True, _id(Kind.SESSION))
STARTED: Final = Rows("sessions", ("started_at", "id"), True, _id(Kind.SESSION))
REVIEWS: Final = Rows("sessions", ("requested_at", "id"), False, _id(Kind.SESSION), rows=25)
EVENTS: Final = Rows("events", ("created_at", "id"), True, _id(Kind.EVENT))
AUDIT: Final = Rows("audit_log", ("at", "id"), True, _id(Kind.AUDIT))
GRANTS: Final = Rows("grants", ("id",), True, _id(Kind.GRANT))
ENTRIES: Final = Rows("entries", ("seq",), True, _id(Kind.ENTRY))


@dataclass(frozen=True, slots=True)
class List:
    """One list: its address, what it is asked, and the same in SQL."""

    address: str
    rows: Rows
    asked: dict[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def name(self) -> str:
        return self.address + ("?" + "&".join(f"{k}={v[:24]}" for k, v in self.asked.items()) if self.asked else "")

    def at(self, cursor: str | None) -> str:
        asked = {**self.asked, **({} if cursor is None else {"cursor": cursor})}
        return self.address + ("?" + urlencode(asked) if asked else "")


_MINE: Final = f"account_id = '{account_id_of(LARGE_USER)}'"


def _users() -> Iterator[List]:
    orders = {"user_id": USERS, "-user_id": USERS_DOWN, "available": LOW, "-available": HIGH}
    for address in ("/v1/users", "/admin/users"):
        for sort, rows in orders.items():
            yield List(address, rows, {"sort": sort})
        for q in ("user-0000", "USER-", "user-000012"):
            begins = f"lower(user_id) like '{q.lower()}%'"
            yield List(address, USERS, {"q": q}, begins)
            yield List(address, LOW, {"q": q, "sort": "available"}, begins)
    yield List(
        "/v1/users",
        LOW,
        {"sort": "available", "min_available": "60", "max_available": "600"},
        "available between 60000000 and 600000000",
    )
    for most, sort, rows in (("10", "user_id", USERS), ("500", "user_id", USERS), ("20", "-user_id", USERS_DOWN)):
        yield List("/v1/users", rows, {"sort": sort, "max_available": most}, f"available <= {most}000000")


def _sessions() -> Iterator[List]:
    period = f"started_at >= '{_MIDDLE_OF_YEAR}' and started_at < '{_LATER}'"
    for address, after, before in (
        ("/v1/sessions", "started_after", "started_before"),
        ("/admin/sessions", "after", "before"),
    ):
        yield List(address, SESSIONS)
        for state in ("settled", "live", "failed", "review"):
            yield List(address, SESSIONS, {"state": state}, f"state = '{state}'")
        yield List(address, SESSIONS, {"user_id": LARGE_USER}, _MINE)
        yield List(address, SESSIONS, {"user_id": LARGE_USER, "state": "settled"}, f"{_MINE} and state = 'settled'")
        a_part = {after: _MIDDLE_OF_YEAR.isoformat(), before: _LATER.isoformat()}
        yield List(address, STARTED, a_part, period)
        old, new = {before: _MIDDLE_OF_YEAR.isoformat()}, {after: _LATER.isoformat()}
        yield List(address, STARTED, old, f"started_at < '{_MIDDLE_OF_YEAR}'")
        yield List(address, STARTED, new, f"started_at >= '{_LATER}'")
        yield List(address, STARTED, {**old, "user_id": LARGE_USER}, f"{_MINE} and started_at < '{_MIDDLE_OF_YEAR}'")
        yield List(
            address, STARTED, {**old, "state": "failed"}, f"started_at < '{_MIDDLE_OF_YEAR}' and state = 'failed'"
        )
        yield List(address, STARTED, {**old, "state": "settled"},
                   f"started_at < '{_MIDDLE_OF_YEAR}' and state = 'settled'")  # fmt: skip
    yield List("/admin/reviews", REVIEWS, {}, "state = 'review'")
    yield List("/portal/sessions", SESSIONS, {}, _MINE)


def _of_a_user() -> Iterator[List]:
    for base in (f"/v1/users/{LARGE_USER}/entries", f"/admin/users/{LARGE_USER}/statement"):
        yield List(base, ENTRIES, {}, _MINE)
        for kind in ("adjustment", "charge", "grant", "expiry", RARE_KIND, "void"):
            yield List(base, ENTRIES, {"kind": kind}, f"{_MINE} and kind = '{kind}'")
        yield List(
            base, ENTRIES, {"before": _MIDDLE_OF_YEAR.isoformat()}, f"{_MINE} and created_at < '{_MIDDLE_OF_YEAR}'"
        )
        yield List(base, ENTRIES, {"after": _LATER.isoformat()}, f"{_MINE} and created_at >= '{_LATER}'")
        yield List(base, ENTRIES, {"kind": RARE_KIND, "before": _MIDDLE_OF_YEAR.isoformat()},
                   f"{_MINE} and kind = '{RARE_KIND}' and created_at < '{_MIDDLE_OF_YEAR}'")  # fmt: skip
    yield List(f"/v1/users/{LARGE_USER}/grants", GRANTS, {}, _MINE)
    yield List(f"/admin/users/{LARGE_USER}/grants", GRANTS, {}, _MINE)
    yield List("/portal/statement", replace(ENTRIES, shown=lambda _: "<tr>"), {}, _MINE)


def _logs() -> Iterator[List]:
    for address in ("/v1/audit-log", "/admin/audit-log"):
        yield List(address, AUDIT)
        yield List(address, AUDIT, {"user_id": LARGE_USER}, _MINE)
        for name, values in (
            ("actor", (KEY, RARE_ACTOR)),
            ("action", ("session.start", RARE_ACTION)),
            ("target", ("ses_rare", "grt_1")),
            ("request_id", ("req-1-7",)),
        ):
            for value in values:
                yield List(address, AUDIT, {name: value}, f"{name} = '{value}'")
        yield List(address, AUDIT, {"before": _MIDDLE_OF_YEAR.isoformat()}, f"at < '{_MIDDLE_OF_YEAR}'")
        yield List(address, AUDIT, {"after": _LATER.isoformat()}, f"at >= '{_LATER}'")
        yield List(address, AUDIT, {"actor": RARE_ACTOR, "before": _MIDDLE_OF_YEAR.isoformat()},
                   f"actor = '{RARE_ACTOR}' and at < '{_MIDDLE_OF_YEAR}'")  # fmt: skip
    yield List("/admin/events", EVENTS)
    yield List("/admin/events", EVENTS, {"user_id": LARGE_USER}, _MINE)
    for kind in ("session.settled", RARE_EVENT, "balance.depleted"):
        yield List("/admin/events", EVENTS, {"type": kind}, f"type = '{kind}'")


LISTS: Final = (*_users(), *_sessions(), *_of_a_user(), *_logs())

PAGES: Final = (
    f"/v1/users/{LARGE_USER}/balance",
    f"/admin/users/{LARGE_USER}",
    "/admin",
    "/admin/find?q=user-0000017",
    "/admin/find?q=gab-12-2",
    "/admin/system",
    "/portal",
)
"""What shows a few rows of many."""

OVERVIEW: Final = "/admin, its figures read anew"


@dataclass(slots=True)
class Measured:
    """Medians in milliseconds at the first page, in the middle and at the end; null where there is no such page."""

    name: str
    small: list[float | None]
    large: list[float | None]

    @property
    def deep_ratio(self) -> float | None:
        """The dearer one of the later pages of the large list against its first."""
        first, *later = self.large
        deep = [value for value in later if value is not None]
        return max(deep) / first if deep and first else None

    @property
    def size_ratio(self) -> float | None:
        """The page of the large list that costs most more than its counterpart in the small one."""
        pairs = [(s, lg) for s, lg in zip(self.small, self.large, strict=True) if s is not None and lg is not None]
        return max(lg / s for s, lg in pairs) if pairs else None

    @property
    def worst(self) -> float:
        return max(self.deep_ratio or 0.0, self.size_ratio or 0.0)

    @property
    def constant(self) -> bool:
        pairs = [*zip(self.small, self.large, strict=True), *((self.large[0], later) for later in self.large[1:])]
        return all(
            less is None or more is None or more <= MOST_RATIO * less or more - less <= MOST_MORE_MS
            for less, more in pairs
        )


@contextmanager
def databases(folder: Path, large: tuple[int, int]) -> Iterator[tuple[DatabaseUrls, DatabaseUrls]]:
    """A small and a large one, each of a server of its own, filled; the large one is there already if it was kept."""
    servers: list[EmbeddedPostgres] = []
    urls: list[DatabaseUrls] = []
    try:
        for name, (users, entries) in (("small", SMALL), ("large", large)):
            home = folder / name / "data"
            if not home.exists():
                _fill(home, users, entries)
            servers.append(EmbeddedPostgres(home))
            urls.append(servers[-1].start())
        yield urls[0], urls[1]
    finally:
        for server in servers:
            server.stop()


def _fill(home: Path, users: int, entries: int) -> None:
    began = time.perf_counter()
    server = EmbeddedPostgres(home, durable=False)  # while it is filled; whatever breaks then is begun anew
    made = server.start()
    try:
        migrate(made.owner, make_url(made.service).username)
        asyncio.run(first_card(made.service))
        fill(made.superuser, made.service, users, entries)
    finally:
        server.stop()
    print(f"{users:,} users, {entries:,} entries: filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)


async def first_card(url: str) -> None:
    database, clock = Database(url, pool_size=1), ManualClock(NOW)
    try:
        async with database.transaction() as transaction:
            await ensure_default_card(transaction, TimeOrderedIds(clock, SystemRandomness()), clock.now())
    finally:
        await database.close()


@dataclass(slots=True)
class _Side:
    """One of the two databases with a service on it."""

    world: World
    browser: httpx.AsyncClient
    connection: psycopg.Connection[Any]

    async def get(self, address: str) -> httpx.Response:
        client = self.world.client if address.startswith("/v1/") else self.browser
        response = await client.get(address)
        if response.status_code not in {200, 303}:
            raise AssertionError(f"{address}: {response.status_code} {response.text[:300]}")
        return response

    async def overview(self) -> None:
        await Overview(self.world.service.database, self.world.clock).figures()


async def measure(
    small: str, large: str, providers: ProviderHost, *, only: str = "", rounds: int = ROUNDS
) -> list[Measured]:
    """All lists whose name has ``only`` in it, in the databases of both addresses in turn."""
    async with world(small, providers.script()) as one, world(large, providers.script()) as other:
        sides = [await _side(one, small), await _side(other, large)]
        try:
            found = [await _of_list(sides, each, rounds) for each in LISTS if only in each.name]
            for address in PAGES:
                if only in address:
                    found += [await _of_page(address, [partial(side.get, address) for side in sides], rounds)]
            if only in OVERVIEW:
                found += [await _of_page(OVERVIEW, [side.overview for side in sides], rounds)]
            return found
        finally:
            for side in sides:
                side.connection.close()
                await side.browser.aclose()


async def _side(talktime: World, url: str) -> _Side:
    transport = httpx.ASGITransport(app=talktime.service.app)
    headers = {"Sec-Fetch-Site": "same-origin"}
    browser = httpx.AsyncClient(transport=transport, base_url=talktime.client.base_url, headers=headers)
    await browser.post("/admin/sign-in", data={"key": ADMIN_KEY})
    link = await talktime.client.post(f"/v1/users/{LARGE_USER}/portal-links", json={"ttl_s": 86_400})
    await browser.get(link.json()["url"])
    # The same answers, but none held against the API document: that takes longer than to make them.
    talktime.client.event_hooks = {}
    return _Side(talktime, browser, psycopg.connect(talktime.service.database.conninfo, autocommit=True))


async def _of_list(sides: Sequence[_Side], one: List, rounds: int) -> Measured:
    positions = [_positions(side.connection, one) for side in sides]
    taken: list[list[list[float]]] = [[[] for _ in range(3)] for _ in sides]
    for turn in range(rounds + 1):
        for side, places, times in zip(sides, positions, taken, strict=True):
            for place, time_of in zip(places, times, strict=True):
                if place is not None:
                    began = time.perf_counter()
                    response = await side.get(one.at(place[0]))
                    time_of.append(1_000 * (time.perf_counter() - began))
                    if not turn and place[1] not in response.text:
                        raise AssertionError(f"{one.at(place[0])} does not begin with {place[1]}")
    return Measured(one.name, *([median(time_of[1:]) if time_of else None for time_of in times] for times in taken))


def _positions(connection: psycopg.Connection[Any], one: List) -> list[tuple[str | None, str] | None]:
    """The first page, one in the middle and the last: a cursor each, and what must be there."""
    count = one.rows.count(connection, one.where)
    if count <= 2 * one.rows.rows:
        return [(None, ""), None, None]
    return [(None, ""), *(one.rows.after(connection, one.where, row) for row in (count // 2, count - LEFT_AT_END))]


async def _of_page(name: str, gets: Sequence[Callable[[], Awaitable[object]]], rounds: int) -> Measured:
    taken: list[list[float]] = [[] for _ in gets]
    for _ in range(rounds + 1):
        for get, times in zip(gets, taken, strict=True):
            began = time.perf_counter()
            await get()
            times.append(1_000 * (time.perf_counter() - began))
    return Measured(name, *([median(times[1:]), None, None] for times in taken))


def table(found: Sequence[Measured]) -> str:
    """The worst first."""
    lines = [
        "| list | small: first, middle, last, ms | large | deep / first | large / small |",
        "|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda one: -one.worst):
        deep = "–" if one.deep_ratio is None else f"{one.deep_ratio:.1f}"
        size = "–" if one.size_ratio is None else f"{one.size_ratio:.1f}"
        lines.append(f"| `{one.name}` | {_times(one.small)} | {_times(one.large)} | {deep} | {size} |")
    return "\n".join(lines)


HEADING: Final = "## Lists of a million users"
_SECTION: Final = """{heading}

`python -m benchmarks.lists --write` measures this and writes it here; it takes ten minutes and 12 GB. A database of
{users} users with {entries} entries, {sessions} sessions, {events} events, {audits} changes in the audit log
and {ticks} heartbeats of the last 30 days against one of {small_users} users with {small_entries} entries: both are
read in turn, each page {rounds} times, through the API or as a page of the admin's or a user's, without the network.
*Deep / first*: a page in the middle or at the end of a list against its first one. *Large / small*: a page of the large
database against its counterpart in the small one. Of all ways to ask for a list the worst counts. {total} lists and
pages, each checked to begin with the row that SQL names; of {over} of them a page took more than {ratio:.0f} times its
counterpart and {more:.0f} ms more.

| list | ways to ask | dearest page | deep / first | large / small |
|---|---|---|---|---|
{rows}

A list of users up to an amount in the order of their ids has an index for either, not for both: it is sifted as it is
read, which takes some milliseconds more.

What the overview shows it has read already, at most every 5 seconds and for at most a twentieth of the time. To read it
anew is the one thing that grows: it adds up what is left of each grant that is not spent.
"""


def section(found: Sequence[Measured], large: tuple[int, int], rows: Mapping[str, int], rounds: int) -> str:
    """What ``docs/performance.md`` tells: a line for each address, the worst of all ways to ask it."""
    by_address: dict[str, list[Measured]] = {}
    for one in found:
        by_address.setdefault(one.name.partition("?")[0].replace(LARGE_USER, "{user_id}"), []).append(one)
    lines = []
    for address, measured in by_address.items():
        dearest = max(value for one in measured for value in one.large if value is not None)
        deep = [one.deep_ratio for one in measured if one.deep_ratio is not None]
        size = [one.size_ratio for one in measured if one.size_ratio is not None]
        lines.append(
            f"| `{address}` | {len(measured)} | {dearest:.0f} ms | {f'{max(deep):.1f}' if deep else '–'} "
            f"| {max(size):.1f} |"
        )
    return _SECTION.format(
        heading=HEADING,
        users=f"{large[0]:,}",
        entries=f"{large[1]:,}",
        small_users=f"{SMALL[0]:,}",
        small_entries=f"{SMALL[1]:,}",
        sessions=f"{rows['sessions']:,}",
        events=f"{rows['events']:,}",
        audits=f"{rows['audit_log']:,}",
        ticks=f"{rows['ticks']:,}",
        rounds=rounds,
        total=len(found),
        over=sum(not one.constant for one in found),
        ratio=MOST_RATIO,
        more=MOST_MORE_MS,
        rows="\n".join(lines),
    )


def _rows(url: str) -> dict[str, int]:
    with psycopg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        return {
            table: int(connection.execute(f"select count(*) from {table}".encode()).fetchall()[0][0])
            for table in ("sessions", "events", "audit_log", "ticks")
        }


def _times(medians: Sequence[float | None]) -> str:
    return " · ".join("–" if value is None else f"{value:.0f}" for value in medians)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=LARGE[0], help="of the large database")
    parser.add_argument("--entries", type=int, default=LARGE[1], help="of the large database")
    parser.add_argument("--only", default="", help="lists whose address has this in it")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    parser.add_argument("--keep", type=Path, help="a folder in which the databases stay, for the next time")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, provider_host() as providers:
        folder = asked.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # as root the server runs as another account
        with databases(folder, (asked.users, asked.entries)) as (small, large):
            found = asyncio.run(measure(small.service, large.service, providers, only=asked.only))
            rows = _rows(large.service)
    print(table(found))
    over = [one.name for one in found if not one.constant]
    if asked.write:
        put_section(PAGE, HEADING, section(found, (asked.users, asked.entries), rows, ROUNDS))
    print(f"{len(found)} lists and pages, {len(over)} of them not constant: {', '.join(over) or 'none'}")


if __name__ == "__main__":
    main()
