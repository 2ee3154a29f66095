"""Partitions of heartbeats: made ahead and dropped by the owner's functions, on the service's behalf."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from app.db.embedded import DatabaseUrls
from tests.support.postgres import WorkerDatabases, ask, tell

PARTITIONS = """
select inhrelid::regclass::text from pg_inherits where inhparent = 'ticks'::regclass order by 1
"""


def make(url: str, first: str, days: int, settings: str = "select 1") -> int:
    """How many partitions a call makes."""
    with psycopg.connect(url) as connection:
        connection.execute(settings.encode())
        row = connection.execute("select create_tick_partitions(%s, %s)", (first, days)).fetchone()
    assert row is not None
    return int(row[0])


def tick(at: str, n: int = 1) -> str:
    return f"insert into ticks values ('{'0' * 32}', '{'1' * 32}', '{at}', {n}, null)"


@pytest.fixture
def urls(databases: WorkerDatabases) -> Iterator[DatabaseUrls]:
    with databases.fresh() as found:
        yield found


def test_a_day_has_a_partition_and_asking_again_makes_none(urls: DatabaseUrls) -> None:
    assert make(urls.service, "2026-02-27", 3) == 3
    assert make(urls.service, "2026-02-27", 3) == 0
    assert make(urls.service, "2026-02-28", 3) == 1
    names = [name for (name,) in ask(urls.service, PARTITIONS)]
    assert names == ["ticks_20260227", "ticks_20260228", "ticks_20260301", "ticks_20260302", "ticks_default"]


@pytest.mark.parametrize(
    ("at", "partition"),
    [
        ("2026-03-01T00:00:00Z", "ticks_20260301"),
        ("2026-03-01T23:59:59.999999Z", "ticks_20260301"),
        ("2026-03-02T00:00:00Z", "ticks_20260302"),
        ("2026-03-02T01:00:00+02:00", "ticks_20260301"),
        ("2026-02-28T23:59:59.999999Z", "ticks_default"),
        ("2026-03-03T00:00:00Z", "ticks_default"),
    ],
)
@pytest.mark.parametrize(
    "settings", ["set timezone = 'Asia/Tokyo'", "set timezone = 'America/New_York'; set datestyle = german"]
)
def test_a_heartbeat_lands_in_the_partition_of_its_day_in_utc(
    urls: DatabaseUrls, settings: str, at: str, partition: str
) -> None:
    assert make(urls.service, "2026-03-01", 2, settings) == 2
    tell(urls.service, tick(at))
    assert ask(urls.service, "select tableoid::regclass::text from ticks") == [(partition,)]


@pytest.mark.parametrize("days", [0, -1, 401])
def test_the_number_of_days_is_bounded(urls: DatabaseUrls, days: int) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="days must be 1 to 400"):
        make(urls.service, "2026-03-01", days)


def test_two_replicas_may_make_the_same_partitions_at_once(urls: DatabaseUrls) -> None:
    gate = threading.Barrier(4)
    made: list[int] = []
    failed: list[BaseException] = []

    def replica() -> None:
        gate.wait()
        try:
            made.append(make(urls.service, "2026-03-01", 30))
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=replica) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sum(made) == 30
    assert len(ask(urls.service, PARTITIONS)) == 31


def test_heartbeats_that_came_before_their_partition_stay_and_do_not_stop_the_other_days(urls: DatabaseUrls) -> None:
    tell(urls.service, tick("2026-03-02T12:00:00Z"))
    assert make(urls.service, "2026-03-01", 3) == 2
    tell(urls.service, tick("2026-03-02T12:00:01Z", 2))
    rows = ask(urls.service, "select tableoid::regclass::text, count(*) from ticks group by 1")
    assert rows == [("ticks_default", 2)]
    names = {name for (name,) in ask(urls.service, PARTITIONS)}
    assert names == {"ticks_20260301", "ticks_20260303", "ticks_default"}


@pytest.mark.parametrize(
    "statement",
    [
        "create table mine (n int)",
        "create table public.ticks_20300101 partition of ticks for values from ('2030-01-01') to ('2030-01-02')",
        "create temporary table mine (n int)",
        "create schema mine",
        "drop table ticks_default",
        "alter table ticks detach partition ticks_default",
        "insert into ticks_default values ('00000000-0000-0000-0000-000000000000', gen_random_uuid(), now(), 1, null)",
        "select * from ticks_default",
        "update ticks set id = 2",
        "delete from ticks",
        "truncate ticks",
        "create function mine() returns int language sql as 'select 1'",
    ],
)
def test_the_service_itself_makes_removes_and_changes_nothing(urls: DatabaseUrls, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        tell(urls.service, statement)


@pytest.mark.parametrize(
    "function", ["create_tick_partitions", "drop_tick_partition", "drop_stray_ticks", "drop_old_bodies"]
)
def test_nobody_else_may_call_the_functions(urls: DatabaseUrls, function: str) -> None:
    acl = ask(urls.owner, f"select proacl::text, prosecdef, proconfig[1] from pg_proc where proname = '{function}'")
    rights = "{talktime_owner=X/talktime_owner,talktime_service=X/talktime_owner}"
    assert acl == [(rights, True, "search_path=pg_catalog, pg_temp")]


# Dropping


def drop(url: str, day: str) -> tuple[str, int]:
    """What came of dropping a day, and how many sessions it is kept for."""
    (row,) = ask(url, f"select outcome, unsettled from drop_tick_partition('{day}')")
    return row[0], row[1]


def drop_strays(url: str, older_than: str, most: int = 100) -> int:
    return int(ask(url, f"select drop_stray_ticks('{older_than}', {most})")[0][0])


def partitions(url: str) -> list[str]:
    return [name for (name,) in ask(url, PARTITIONS)]


def today() -> date:
    return datetime.now(UTC).date()


SESSION = """
insert into accounts (account_id, user_id, balance, debt, held, credit_limit, seq, event_seq, limits, suspended,
    created_at) values ('{account}', 'u', 0, 0, 0, 0, 0, 0, '{{}}', false, '2024-02-01');
insert into rate_cards values ('{account}', 'c', 1, '{{}}', '2024-02-01', null, null, '2024-02-01');
insert into sessions (account_id, id, persona, scenario, metadata, state, rate_card_id, time_limit, authorized, accrued,
    charged, anomalies, requested_at, steps, attempts) values ('{account}', '{session}', 'p', 's', '{{}}', '{state}',
    '{account}', 1, 5, 0, {charged}, '{{}}', '2024-02-01', 1, 0)
"""


def put_session(urls: DatabaseUrls, state: str) -> None:
    """The session of :func:`tick`, in this state."""
    charged = "0" if state == "settled" else "null"
    tell(urls.owner, SESSION.format(account="0" * 32, session="1" * 32, state=state, charged=charged))


def test_a_day_is_dropped_with_its_heartbeats_and_no_other(urls: DatabaseUrls) -> None:
    make(urls.service, "2024-02-28", 3)
    for n, at in enumerate(
        ["2024-02-28T23:59:59.999999Z", "2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999999Z", "2024-03-01T00:00:00Z"]
    ):
        tell(urls.service, tick(at, n))
    assert drop(urls.service, "2024-02-29") == ("dropped", 0)
    assert ask(urls.owner, "select id from ticks order by id") == [(0,), (3,)]
    assert partitions(urls.owner) == ["ticks_20240228", "ticks_20240301", "ticks_default"]
    assert drop(urls.service, "2024-02-29") == ("missing", 0)
    # A heartbeat that still comes for that day is stored, and goes with the strays.
    tell(urls.service, tick("2024-02-29T12:00:00Z", 7))
    assert drop_strays(urls.service, "2024-03-01") == 1


@pytest.mark.parametrize("state", ["starting", "unconfirmed", "live", "over", "review"])
def test_a_day_is_kept_while_a_session_that_has_not_ended_has_heartbeats_in_it(urls: DatabaseUrls, state: str) -> None:
    put_session(urls, state)
    make(urls.service, "2024-02-28", 2)
    tell(urls.service, tick("2024-02-29T12:00:00Z"))
    tell(urls.service, tick("2024-02-20T12:00:00Z", 2))
    assert drop(urls.service, "2024-02-29") == ("kept", 1)
    assert drop(urls.service, "2024-02-28") == ("dropped", 0)
    assert drop_strays(urls.service, "2024-03-01") == 0
    assert ask(urls.owner, "select id from ticks order by id") == [(1,), (2,)]


@pytest.mark.parametrize("state", ["settled", "failed"])
def test_a_day_goes_when_all_its_sessions_have_ended(urls: DatabaseUrls, state: str) -> None:
    put_session(urls, state)
    make(urls.service, "2024-02-29", 1)
    tell(urls.service, tick("2024-02-29T12:00:00Z"))
    tell(urls.service, tick("2024-02-20T12:00:00Z", 2))
    assert drop(urls.service, "2024-02-29") == ("dropped", 0)
    assert drop_strays(urls.service, "2024-03-01") == 1
    assert ask(urls.owner, "select id from ticks") == []


def test_the_last_week_stays_whoever_asks(urls: DatabaseUrls) -> None:
    """By the clock of the server: that of the caller can be turned."""
    now = today()
    make(urls.service, (now - timedelta(days=10)).isoformat(), 20)
    for days in (-3, 0, 1, 6):
        assert drop(urls.service, (now - timedelta(days=days)).isoformat()) == ("too_young", 0)
    assert drop(urls.service, "9999-12-31") == ("too_young", 0)
    assert drop(urls.service, (now - timedelta(days=9)).isoformat()) == ("dropped", 0)
    assert len(partitions(urls.owner)) == 20
    tell(urls.service, tick("9999-12-30T00:00:00Z"))
    tell(urls.service, tick((datetime.now(UTC) + timedelta(days=30)).isoformat(), 2))
    assert drop_strays(urls.service, "infinity") == 0
    assert ask(urls.owner, "select count(*) from ticks") == [(2,)]


def test_a_date_that_names_the_partition_of_another_is_refused(urls: DatabaseUrls) -> None:
    make(urls.service, today().isoformat(), 1)
    for forged in (f"{today().isoformat()} BC", "-infinity", "infinity", "1969-12-31", "0001-01-01"):
        with pytest.raises(psycopg.errors.RaiseException, match="a date from 1970 on"):
            drop(urls.service, forged)
    with pytest.raises(psycopg.errors.RaiseException, match="a date from 1970 on"):
        ask(urls.service, "select drop_tick_partition(null)")
    for forged in ("default", "entries", "20240229; drop table entries"):
        with pytest.raises(psycopg.errors.InvalidDatetimeFormat):
            drop(urls.service, forged)
    assert partitions(urls.owner) == [f"ticks_{today():%Y%m%d}", "ticks_default"]


def test_a_table_that_is_named_like_a_partition_stays(urls: DatabaseUrls) -> None:
    tell(urls.owner, "create table ticks_20240229 (n int)")
    assert drop(urls.service, "2024-02-29") == ("missing", 0)
    assert ask(urls.owner, "select count(*) from ticks_20240229") == [(0,)]


def test_the_callers_settings_change_nothing(urls: DatabaseUrls) -> None:
    make(urls.service, today().isoformat(), 1)
    with psycopg.connect(urls.service, autocommit=True) as connection:
        connection.execute("set timezone = 'Pacific/Kiritimati'; set datestyle = german; set search_path = pg_temp")
        row = connection.execute("select outcome from public.drop_tick_partition(%s)", (today(),)).fetchone()
    assert row == ("too_young",)


def test_dropping_gives_up_at_once_while_a_heartbeat_is_being_written(urls: DatabaseUrls) -> None:
    make(urls.service, "2024-02-29", 2)
    with psycopg.connect(urls.service) as writing:
        writing.execute(tick("2024-03-01T12:00:00Z").encode())
        began = time.monotonic()
        assert drop(urls.service, "2024-02-29") == ("busy", 0)
        assert time.monotonic() - began < 3
        # Nothing waits behind it any more.
        tell(urls.service, "set lock_timeout = '2s'; " + tick("2024-03-01T12:00:01Z", 2))
    assert drop(urls.service, "2024-02-29") == ("dropped", 0)
    assert ask(urls.owner, "select count(*) from ticks") == [(2,)]


def test_strays_go_in_bounded_batches(urls: DatabaseUrls) -> None:
    for n in range(5):
        tell(urls.service, tick(f"2024-02-0{n + 1}T12:00:00Z", n))
    assert [drop_strays(urls.service, "2024-02-05", 3) for _ in range(3)] == [3, 1, 0]
    assert ask(urls.owner, "select id from ticks") == [(4,)]
    for most in ("0", "-1", "100001", "null"):
        with pytest.raises(psycopg.errors.RaiseException, match="most must be"):
            ask(urls.service, f"select drop_stray_ticks('2024-02-05', {most})")
