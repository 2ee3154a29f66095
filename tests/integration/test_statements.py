"""Statements: filters, and all of one as CSV in constant memory."""

import csv
import io
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.accounts.statements import CSV_HEADER, ROWS_AT_ONCE, EntryFilter, statement_rows
from app.core.units import US_PER_S, Instant, format_instant
from app.db.database import Database
from app.http.csv_answers import Cell, csv_response
from tests.integration.test_pages import walk
from tests.support.many_entries import fill
from tests.support.postgres import WorkerDatabases, ask
from tests.support.world import World

pytestmark = pytest.mark.anyio

CSV = {"Accept": "text/csv"}
OPEN_TRANSACTIONS = """
select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'
"""


async def story(talktime: World) -> tuple[str, list[dict[str, Any]]]:
    """A user with two grants, one of which expires, and two charged sessions; the sessions."""
    user = talktime.user()
    tomorrow = format_instant(Instant(talktime.clock.now() + 86_400 * US_PER_S))
    await talktime.grant(user, "20", expires_at=tomorrow, reference="=SUM(A1)")
    await talktime.grant(user, "200", reference='say "hi", ok')
    sessions = []
    for _ in range(2):
        session = await talktime.start(user, time_limit_s=60)
        talktime.provider.say(session["provider_session_id"], ("agent", 9), ("user", 6))
        await talktime.heartbeats_until(session, 30)
        sessions.append(await talktime.settle(session))
    talktime.clock.advance(86_400)
    await talktime.grant(user, "1")
    return user, sessions


async def read_csv(talktime: World, path: str) -> list[dict[str, str]]:
    response = await talktime.client.get(path, headers=CSV)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


async def test_entries_of_a_session_and_of_a_grant(talktime: World) -> None:
    user, sessions = await story(talktime)
    path = f"/v1/users/{user}/entries"
    entries = await walk(talktime, path, 2)
    for session in sessions:
        found = await walk(talktime, f"{path}?session_id={session['id']}", 1)
        assert [entry["kind"] for entry in found] == ["charge"]
        assert found == [entry for entry in entries if entry["session_id"] == session["id"]]
    grants = {entry["grant_id"] for entry in entries} - {None}
    assert len(grants) == 3
    for grant in grants:
        assert await walk(talktime, f"{path}?grant_id={grant}", 1) == [
            entry for entry in entries if entry["grant_id"] == grant
        ]
    both = await walk(talktime, f"{path}?grant_id={min(grants)}&session_id={sessions[0]['id']}", 5)
    assert both == []


async def test_things_of_another_user_find_nothing(talktime: World) -> None:
    user, _ = await story(talktime)
    other, (session, _) = await story(talktime)
    (grant, *_) = (await talktime.get(f"/v1/users/{other}/grants"))["data"]
    for named in (f"session_id={session['id']}", f"grant_id={grant['id']}"):
        assert (await talktime.get(f"/v1/users/{user}/entries?{named}"))["data"] == []
        assert (await talktime.get(f"/v1/users/{other}/entries?{named}"))["data"] != []
        assert await read_csv(talktime, f"/v1/users/{user}/entries?{named}") == []


@pytest.mark.parametrize(
    ("named", "pointer"),
    [
        ("session_id=", "/session_id"),
        ("session_id=grt_1", "/session_id"),
        ("grant_id=ses_" + "0" * 52, "/grant_id"),
        ("grant_id=%00", "/grant_id"),
        ("kind=gift", "/kind"),
        ("after=now", "/after"),
        ("limit=0", "/limit"),
    ],
)
@pytest.mark.parametrize("headers", [{}, CSV])
async def test_a_bad_filter_is_named_in_json_whatever_was_asked_for(
    talktime: World, named: str, pointer: str, headers: dict[str, str]
) -> None:
    user = talktime.user()
    await talktime.grant(user, "1")
    response = await talktime.client.get(f"/v1/users/{user}/entries?{named}", headers=headers)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["pointer"] == pointer


async def test_a_statement_of_nobody_is_not_found_in_either_form(talktime: World) -> None:
    for headers in ({}, CSV):
        response = await talktime.client.get(f"/v1/users/{talktime.user()}/entries", headers=headers)
        assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")


async def test_csv_has_what_json_has_and_no_formula(talktime: World) -> None:
    user, _ = await story(talktime)
    path = f"/v1/users/{user}/entries"
    entries = await walk(talktime, path, 500)
    rows = await read_csv(talktime, path + "?limit=1")
    assert [tuple(row) for row in rows] == [CSV_HEADER] * len(entries)
    for row, entry in zip(rows, entries, strict=True):
        paid = "; ".join(f"{line['grant_id'] or 'credit'}={line['amount']}" for line in entry.pop("funding"))
        assert row.pop("funding") == paid
        told = row.pop("reference")
        assert told.removeprefix("'") == (entry.pop("reference") or "")
        assert not told.startswith("=")
        assert row == {name: "" if value is None else str(value) for name, value in entry.items()}
    charges = await read_csv(talktime, path + "?kind=charge&after=2026-03-01T12:00:00Z&before=2026-03-02T00:00:00Z")
    assert [(row["kind"], row["amount"]) for row in charges] == [("charge", "-15")] * 2
    assert "; grt_" in charges[0]["funding"]


async def test_the_form_follows_accept_and_says_so(talktime: World) -> None:
    user = talktime.user() + "/..;\u202fü"
    path = "/v1/users/" + user.replace("/", "%2F").replace("\u202f", "%E2%80%AF").replace("ü", "%C3%BC")
    granted = await talktime.client.post(path + "/grants", json={"amount": "1"})
    assert granted.status_code == 201
    for accept, form in (
        ("text/csv", "text/csv"),
        ("text/csv;q=0.9, application/json;q=0.8", "text/csv"),
        ("*/*", "application/json"),
        ("text/csv;q=0.1, application/json", "application/json"),
    ):
        response = await talktime.client.get(path + "/entries", headers={"Accept": accept})
        assert response.headers["content-type"].partition(";")[0] == form
        assert response.headers["vary"] == "Accept"
        name = f'attachment; filename="statement-{user[:17]}.csv"'
        assert response.headers.get("content-disposition") == (name if form == "text/csv" else None)


async def test_a_long_statement_is_streamed_in_pages_between_which_nothing_is_open(
    databases: WorkerDatabases,
) -> None:
    count = 8_000
    with databases.fresh() as urls:
        fill(urls.superuser, urls.service, "ada", count)
        database = Database(urls.service, pool_size=1)
        try:
            seqs: list[int] = []
            pages = statement_rows(database, "ada", EntryFilter())
            response = await csv_response("all", CSV_HEADER, watched(pages, urls.service))
            held: list[int] = []
            async for chunk in response.body_iterator:
                assert isinstance(chunk, str)
                lines = list(csv.reader(io.StringIO(chunk, newline="")))
                assert len(lines) <= ROWS_AT_ONCE + 1
                seqs += [int(line[1]) for line in lines if line != list(CSV_HEADER)]
                if len(seqs) == ROWS_AT_ONCE:
                    # What is booked while it streams belongs to another statement.
                    late = "insert into entries select account_id, gen_random_uuid(), seq + 1, 'late', kind, amount, "
                    late += "balance_after + 1, null, null, null, null, null, created_at, key_id, mac from entries "
                    ask(urls.service, late + f"where seq = {count} returning 1")
                if len(seqs) == 2_000:
                    tracemalloc.start()  # not all the time: it makes everything slow
                elif tracemalloc.is_tracing():
                    held.append(tracemalloc.get_traced_memory()[0])
                    if len(held) == 4:
                        peak = tracemalloc.get_traced_memory()[1]
                        tracemalloc.stop()
        finally:
            await database.close()
    assert seqs == list(range(count, 0, -1))
    assert peak < 15_000_000, peak
    assert held[3] - held[1] < 1_000_000, held


async def watched(pages: AsyncIterator[list[list[Cell]]], url: str) -> AsyncIterator[list[list[Cell]]]:
    """The pages; whoever waits for the next one holds no transaction open."""
    async for page in pages:
        assert ask(url, OPEN_TRANSACTIONS) == [(0,)]
        yield page


async def test_a_period_holds_what_was_booked_from_its_beginning_to_before_its_end(talktime: World) -> None:
    user = talktime.user()
    for amount in ("1", "2", "3"):
        await talktime.grant(user, amount)
        await talktime.grant(user, amount + "0")
        talktime.clock.advance(60)
    path = f"/v1/users/{user}/entries"
    for after, before, amounts in (
        ("12:00:00", "12:01:00", ["10", "1"]),
        ("12:00:00.000001", "12:01:00", []),
        ("12:00:00", "12:01:00.000001", ["20", "2", "10", "1"]),
        ("12:01:00", "12:02:00", ["20", "2"]),
        ("11:00:00", "12:00:00", []),
        ("12:02:00", "13:00:00", ["30", "3"]),
        ("12:03:00", "13:00:00", []),
        ("13:00:00", "12:00:00", []),
    ):
        period = f"after=2026-03-01T{after}Z&before=2026-03-01T{before}Z"
        assert [entry["amount"] for entry in await walk(talktime, f"{path}?{period}", 1)] == amounts
        assert [row["amount"] for row in await read_csv(talktime, f"{path}?{period}")] == amounts
