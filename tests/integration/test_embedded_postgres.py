"""The embedded server with real programs, real processes and real kills."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from app.db.embedded import DatabaseUrls, EmbeddedPostgres, EmbeddedPostgresError, keep_running
from app.db.embedded.accounts import Account, account_for_new_cluster, can_enter
from app.db.embedded.binaries import find_binaries
from app.db.embedded.places import MAX_SOCKET_PATH_BYTES, Places
from app.db.embedded.process import _processes_in, why_not_connected
from tests.support.hold_postgres import interpreter_for
from tests.support.postgres import ask, open_folder, scratch_folder, tell

ROOT = Path(__file__).parents[2]
DEATH_LIMIT_S = 8
"""Within this time a server whose parent was killed is gone; PostgreSQL gives its own children 5 s."""


def _accounts() -> list[Account | None]:
    """Who can run these tests' processes: we ourselves and, as root, an ordinary account."""
    lent = account_for_new_cluster()
    return [None, lent] if lent and interpreter_for(lent) and can_enter(lent, ROOT) else [None]


def _sources() -> list[Path | None]:
    """What PostgreSQL to use: the default (the wheel), and the system's if it is there."""
    try:
        system = find_binaries(None, account=None, major=None, places=Places(use_wheel=False))
    except EmbeddedPostgresError:
        return [None]
    return [None, system.bin_dir]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that every account can enter; pytest's own are long and closed."""
    yield from open_folder(scratch_folder())


@pytest.fixture
def disk_folder() -> Iterator[Path]:
    """The same for programs: memory may be mounted so that nothing in it can be executed."""
    yield from open_folder(Path("/tmp"))


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data folder with a cluster in it, for the tests that need no first start; each leaves it stopped."""
    for path in open_folder(scratch_folder()):
        with running(EmbeddedPostgres(path, durable=False)):
            pass
        yield path


@pytest.fixture
def places(disk_folder: Path) -> Places:
    return Places(system_state=disk_folder / "state")


@contextmanager
def running(server: EmbeddedPostgres) -> Iterator[DatabaseUrls]:
    try:
        yield server.start_or_share()
    finally:
        server.stop()


def holder_command(data_dir: Path, *options: str, account: Account | None = None) -> list[str]:
    drop = [f"account={account.uid}:{account.gid}:{interpreter_for(account)}"] if account else []
    return [sys.executable, "-m", "tests.support.hold_postgres", str(data_dir), *options, *drop]


@contextmanager
def holder(
    data_dir: Path, *options: str, account: Account | None = None
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Another process that runs or shares the server until its standard input ends."""
    child = subprocess.Popen(
        holder_command(data_dir, *options, account=account),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        try:
            yield child, json.loads(child.stdout.readline())
        finally:
            if child.poll() is None and not child.stdin.closed:
                child.stdin.close()
            child.wait(30)


def wait_for_end_of(cluster: Path) -> None:
    deadline = time.monotonic() + DEATH_LIMIT_S
    while living := _processes_in(cluster):
        assert time.monotonic() < deadline, f"{living} outlived their parent"
        time.sleep(0.02)


@pytest.mark.parametrize("bin_dir", _sources(), ids=str)
def test_a_durable_server_starts_keeps_its_data_and_leaves_nothing_behind(folder: Path, bin_dir: Path | None) -> None:
    data_dir = folder / "with space"
    server = EmbeddedPostgres(data_dir, bin_dir=bin_dir)
    with running(server) as urls:
        assert server.owned
        expected = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": ""}
        shown = {name: ask(urls.service, f"SHOW {name}")[0][0] for name in expected}
        assert shown == expected
        encoding = "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = 'talktime'"
        assert ask(urls.superuser, encoding) == [("UTF8", "C")]
        tell(urls.owner, "CREATE TABLE kept AS SELECT 1 AS n")
        cluster = (data_dir / "postgres").resolve() / "cluster"
        assert _processes_in(cluster)
        assert not any(os.getsid(pid) == os.getsid(0) for pid in _processes_in(cluster)), "Ctrl-C would reach it"
    assert _processes_in(cluster) == []
    with running(server) as urls:
        assert ask(urls.owner, "SELECT n FROM kept") == [(1,)]


def test_a_start_anew_finds_an_empty_database_and_the_same_roles(made: Path) -> None:
    server = EmbeddedPostgres(made, durable=False)
    urls = server.start()
    try:
        tell(urls.owner, "create table kept (a int)")
    finally:
        server.stop()
    for anew, tables in ((False, 1), (True, 0)):
        urls = server.start(anew=anew)
        try:
            assert len(ask(urls.owner, "select 1 from pg_tables where tablename = 'kept'")) == tables
            assert ask(urls.service, "select current_user") == [("talktime_service",)]
        finally:
            server.stop()


def test_roles_can_do_what_they_must_and_no_more(made: Path) -> None:
    with running(EmbeddedPostgres(made, durable=False)) as urls:
        for url, role in ((urls.owner, "talktime_owner"), (urls.service, "talktime_service")):
            engine = create_engine(url)
            with engine.connect() as connection:
                assert connection.execute(text("SELECT current_user, current_database()")).one() == (role, "talktime")
            engine.dispose()
        tell(urls.owner, "CREATE TABLE secret (n int); CREATE SCHEMA more; CREATE TABLE more.secret (n int)")
        rights = "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
        assert ask(urls.superuser, f"{rights} WHERE rolname LIKE 'talktime%'") == [(False,) * 5] * 2
        for refused in (
            "CREATE TABLE mine (n int)",
            "CREATE TABLE more.mine (n int)",
            "CREATE TEMPORARY TABLE mine (n int)",
            "CREATE SCHEMA mine",
            "CREATE DATABASE mine",
            "CREATE ROLE mine",
            "SELECT n FROM secret",
            "DROP TABLE secret",
            "SET session_replication_role = replica",
            "SET ROLE talktime_owner",
            "SET ROLE postgres",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tell(urls.service, refused)
        tell(urls.superuser, "CREATE ROLE stranger LOGIN")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            ask(urls.service.replace("talktime_service", "stranger"), "SELECT 1")


@pytest.mark.parametrize("account", _accounts(), ids=lambda account: account.name if account else "self")
def test_a_killed_parent_leaves_no_server_and_loses_no_commit(folder: Path, account: Account | None) -> None:
    data_dir = folder / "data"
    data_dir.mkdir()
    if account:
        os.chown(data_dir, account.uid, account.gid)
    with holder(data_dir, account=account) as (child, urls):
        assert urls["owned"]
        tell(urls["owner"], "CREATE TABLE kept AS SELECT 1 AS n")
        cluster = (data_dir / "postgres").resolve() / "cluster"
        assert _processes_in(cluster)
        child.kill()
        child.wait()
        wait_for_end_of(cluster)
    with holder(data_dir, account=account) as (_, again):
        assert ask(again["owner"], "SELECT n FROM kept") == [(1,)]


def test_a_start_right_after_the_parent_was_killed_waits_for_its_server(made: Path) -> None:
    with holder(made) as (child, urls):
        tell(urls["owner"], "CREATE TABLE soon AS SELECT 1 AS n")
        child.kill()
        child.wait()
        with running(EmbeddedPostgres(made)) as again:
            assert ask(again.owner, "SELECT n FROM soon") == [(1,)]


def test_a_server_that_ends_is_started_again_but_not_without_end(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.embedded.keeper.MAX_RESTARTS", 2)
    server = EmbeddedPostgres(made)
    pid_file = (made / "postgres").resolve() / "cluster" / "postmaster.pid"

    def kill() -> str:
        pid = pid_file.read_text().splitlines()[0]
        os.kill(int(pid), signal.SIGKILL)
        return pid

    def wait_for_another_than(pid: str, url: str) -> None:
        deadline = time.monotonic() + 30
        while not (pid_file.exists() and pid_file.read_text().splitlines()[:1] != [pid] and not why_not_connected(url)):
            assert time.monotonic() < deadline, "not started again in time"
            time.sleep(0.01)

    async def play(url: str) -> None:
        async with asyncio.timeout(60):
            keeper = asyncio.create_task(keep_running(server, look_s=0.01))
            for _ in range(2):
                await asyncio.to_thread(wait_for_another_than, kill(), url)
            kill()
            with pytest.raises(EmbeddedPostgresError, match="ended 3 times within 600 s, the last time with code -9"):
                await keeper

    with running(server) as urls:
        tell(urls.owner, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS n")
        asyncio.run(play(urls.owner))
    with running(server) as urls:
        assert ask(urls.owner, "SELECT n FROM kept") == [(1,)]


def test_two_processes_share_one_server_until_the_last_is_done(made: Path) -> None:
    with holder(made, "not-durable") as (owner, urls):
        server = EmbeddedPostgres(made)
        with running(server) as shared:
            assert not server.owned
            assert shared.service == urls["service"]
            assert owner.stdin is not None
            owner.stdin.close()
            with pytest.raises(subprocess.TimeoutExpired):
                owner.wait(0.5)
            assert ask(shared.service, "SELECT 1") == [(1,)]
        assert owner.wait(10) == 0
    with EmbeddedPostgres.running_or_start(made) as urls_again:
        assert ask(urls_again.service, "SELECT 1") == [(1,)]


def test_who_shares_too_long_is_cut_off(made: Path) -> None:
    owner = EmbeddedPostgres(made, durable=False, sharers_wait_s=0.1)
    owner.start()
    sharer = EmbeddedPostgres(made)
    with running(sharer) as urls:
        assert not sharer.owned
        owner.stop()
        with pytest.raises(psycopg.OperationalError):
            ask(urls.service, "SELECT 1")


def test_an_owner_is_not_taken_for_another(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.embedded.server.OWNER_WAIT_S", 0.1)
    with (
        running(EmbeddedPostgres(made, durable=False)),
        pytest.raises(EmbeddedPostgresError, match="another talktime process runs the database"),
    ):
        EmbeddedPostgres(made).start()


def test_first_starts_at_once_make_one_cluster(folder: Path) -> None:
    children = [
        subprocess.Popen(
            holder_command(folder / "raced", "not-durable"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = []
    for child in children:
        assert child.stdout is not None
        answers.append(json.loads(child.stdout.readline()))
    assert sorted(answer["owned"] for answer in answers) == [False, False, True]
    assert len({answer["service"] for answer in answers}) == 1
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    for child in children:
        with child:
            assert child.wait(20) == 0


@pytest.mark.parametrize("account", _accounts(), ids=lambda account: account.name if account else "self")
def test_a_data_folder_below_a_closed_one_works(folder: Path, places: Places, account: Account | None) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    data_dir = closed / "data"
    if account:
        os.chown(closed, account.uid, account.gid)
        with holder(data_dir, "not-durable", account=account) as (_, urls):
            assert urls["owned"]
        return
    with running(EmbeddedPostgres(data_dir, places=places)) as first:
        tell(first.owner, "CREATE TABLE kept AS SELECT 1 AS n")
    assert closed.stat().st_mode & 0o777 == 0o700
    closed.chmod(0o755)  # an open folder later must not start an empty cluster
    with running(EmbeddedPostgres(data_dir, places=places)) as second:
        assert ask(second.owner, "SELECT n FROM kept") == [(1,)]
    if account_for_new_cluster():
        home = (data_dir / "postgres").resolve()
        assert home.is_relative_to(places.system_state)
        assert places.system_state.stat().st_uid == 0
        shutil.rmtree(home)
        with pytest.raises(EmbeddedPostgresError, match="which is gone and with it the data"):
            EmbeddedPostgres(data_dir, places=places).start()


def test_programs_below_a_closed_folder_are_copied_once(folder: Path, disk_folder: Path, places: Places) -> None:
    original = find_binaries(None, account=None, major=None).bin_dir
    site = disk_folder / "closed" / "site"
    package = original.parents[1]
    site.mkdir(parents=True)
    (disk_folder / "closed").chmod(0o700)
    unused = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(original.parent, site / package.name / original.parent.name, ignore=unused)
    libs = package.with_name(f"{package.name}.libs")
    if libs.is_dir():
        shutil.copytree(libs, site / libs.name)
    bin_dir = site / package.name / original.parent.name / "bin"
    for _ in range(2):
        server = EmbeddedPostgres(folder / "data", bin_dir=bin_dir, durable=False, places=places)
        with running(server) as urls:
            assert ask(urls.service, "SELECT 1") == [(1,)]
    copies = list((places.system_state / "binaries").iterdir()) if places.system_state.exists() else []
    assert len(copies) == (1 if account_for_new_cluster() else 0)


def test_an_account_that_may_not_use_the_cluster_is_told_so(made: Path) -> None:
    others = [account for account in _accounts() if account]
    for account in others:
        child = subprocess.run(
            holder_command(made, account=account),
            cwd=ROOT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert child.returncode == 1
        assert "EmbeddedPostgresError: the database in" in child.stderr
        assert "Permission denied" in child.stderr


def test_a_socket_path_that_is_too_long_goes_to_a_short_private_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    data_dir = folder / ("long" * 20) / ("longer" * 5)
    with running(EmbeddedPostgres(data_dir, durable=False, places=Places(short=folder))) as urls:
        (socket,) = folder.glob("talktime-*/.s.PGSQL.5432")
        assert len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert ask(urls.service, "SELECT 1") == [(1,)]
        with holder(data_dir) as (_, shared):
            assert not shared["owned"]
    assert not list(folder.glob("talktime-*")), "the folder is gone with the server"
    socket.parent.mkdir()
    socket.parent.chmod(0o755)  # as somebody else could have made it
    with pytest.raises(EmbeddedPostgresError, match="no folder for the server's socket"):
        EmbeddedPostgres(data_dir, places=Places(short=folder)).start()


def test_a_half_made_cluster_is_made_anew(folder: Path) -> None:
    half = folder / "data" / "postgres" / "cluster.new-killed"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with running(EmbeddedPostgres(folder / "data", durable=False)) as urls:
        assert ask(urls.service, "SELECT 1") == [(1,)]
    assert not half.exists()


def test_a_killed_first_start_is_repaired(folder: Path) -> None:
    data_dir = folder / "data"
    child = subprocess.Popen(holder_command(data_dir), cwd=ROOT, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not list(folder.glob("data/postgres/cluster.new-*/*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    with running(EmbeddedPostgres(data_dir, durable=False)) as urls:
        assert ask(urls.service, "SELECT 1") == [(1,)]


def test_a_pid_that_now_belongs_to_another_program_does_not_block_the_start(made: Path) -> None:
    server = EmbeddedPostgres(made, durable=False)
    with running(server):
        cluster = (made / "postgres").resolve() / "cluster"
        recorded = (cluster / "postmaster.pid").read_text().splitlines()
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        try:
            (cluster / "postmaster.pid").write_text("\n".join([str(other.pid), *recorded[1:]]) + "\n")
            with running(server) as urls:
                assert ask(urls.service, "SELECT 1") == [(1,)]
        finally:
            other.send_signal(signal.SIGTERM)


def test_a_server_that_does_not_start_says_why(made: Path) -> None:
    server = EmbeddedPostgres(made, durable=False)
    cluster = (made / "postgres").resolve() / "cluster"
    before = {name: (cluster / name).read_text() for name in ("postgresql.conf", "PG_VERSION")}
    with (cluster / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    for _ in range(2):  # the locks were given back
        with pytest.raises(EmbeddedPostgresError, match=r"ended with code 1[\s\S]*no_such_setting"):
            server.start()
    (cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 9, which made the data, is not installed .*version 1"):
        server.start()
    (cluster / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedPostgresError, match="is not a PostgreSQL cluster"):
        server.start()
    for name, content in before.items():
        (cluster / name).write_text(content)
        shutil.copystat(cluster / "pg_hba.conf", cluster / name)
        os.chown(cluster / name, cluster.stat().st_uid, cluster.stat().st_gid)
    with running(server):
        pass


def test_without_programs_the_error_tells_how_to_get_them(folder: Path) -> None:
    nothing = Places(use_wheel=False, system_binaries=folder)
    with pytest.raises(EmbeddedPostgresError, match=r"nothing found.*pip install 'talktime\[embedded\]'"):
        EmbeddedPostgres(folder / "data", places=nothing).start()
    with pytest.raises(EmbeddedPostgresError, match=r"no postgres and initdb in it"):
        EmbeddedPostgres(folder / "data", bin_dir=folder).start()


def test_the_start_must_come_from_the_main_thread(made: Path) -> None:
    failures: list[str] = []

    def start() -> None:
        try:
            EmbeddedPostgres(made, durable=False).start()
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert failures == ["the embedded PostgreSQL must be started from the main thread"]
