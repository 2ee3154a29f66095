"""Partitions of heartbeats: made ahead by the owner's function, on the service's behalf."""

import threading
from collections.abc import Iterator

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


def test_nobody_else_may_call_the_function(urls: DatabaseUrls) -> None:
    acl = ask(urls.owner, "select proacl::text, prosecdef from pg_proc where proname = 'create_tick_partitions'")
    assert acl == [("{talktime_owner=X/talktime_owner,talktime_service=X/talktime_owner}", True)]
