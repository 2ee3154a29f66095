"""Services on one database, one for each actor, and as many users as there are runs, all alike.

What a pair needs is made once, by the service itself. Its rows are then copied for every run under another user's id,
with signatures of their own, in one statement; ``talktime verify`` at the end says whether they are genuine.
"""

import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import psycopg
from psycopg.rows import dict_row
from sqlalchemy import select

from app.accounts.recurring import post_recurring
from app.core.chain import Entry, grant_mac, limit_mac, mac
from app.core.ids import AccountThing, Kind, account_id_of, parse_public_id, public_id
from app.core.targets import Target
from app.core.units import Instant
from app.db.database import Transaction
from app.db.embedded import DatabaseUrls
from app.db.embedded.roles import SERVICE
from app.db.migrate import migrate
from app.db.tables import DISTRIBUTED, entries, grants, limit_changes, metadata
from app.deliveries.sending import Answered
from app.heartbeats.endpoint import PATH
from app.ledger.due import post_due
from app.ledger.keys import LedgerKeys
from app.ledger.rows import grant_of, terms_document
from app.ledger.signed import signed_entries
from app.ports.permits import Unlimited
from app.service import Service
from app.settings import load_settings
from tests.support.clock import ManualClock
from tests.support.invariants import LEDGER_KEYS
from tests.support.postgres import WorkerDatabases, worker_databases
from tests.support.scripted_provider import ScriptedProvider
from tests.support.stripe import SECRET as STRIPE_SECRET
from tests.support.world import ADMIN_KEY, FORGET_REPORTS, PUBLIC_URL, World
from tests.turnstile.gate import ACTOR, Actor, pass_by

LETTERS: Final = "abc"
KEY_BYTES: Final = b"test-ledger-key-0123456789"
SETUP_USER: Final = "turnstile"
_COPIED: Final = [table.name for table in metadata.sorted_tables if table.info["placement"] == DISTRIBUTED]


class Chances:
    """Randomness that is the same in every run."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self.reset()

    def reset(self) -> None:
        self._random = random.Random(self._stream)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)


@dataclass
class Provider(httpx.AsyncBaseTransport):
    """The scripted provider in process; each call of an actor is a step of its own.

    ``after``: what an actor that waits for it is told once the call was made; ``lost``: starts are made, but never
    answered.
    """

    script: ScriptedProvider
    name: str
    lost: bool = False
    started: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.started += 1
            body = json.loads(await request.aread())
            session_id = f"gab_{self.name}{self.started}"
            connection = {"url": "wss://rtc.example", "token": f"connect-{session_id}"}
            self.script.start_body = {"session": {"id": session_id}, "connection_details": connection}
            answer = self.script.answer_start(body)
            if answer.status_code == 200:
                self.script.started[-1] = session_id
            await pass_by(f"ask the provider to start {session_id}", "started")
            if self.lost:
                raise httpx.ReadError("lost")
        else:
            await pass_by("pull the timeline")
            answer = self.script.answer_timeline(request.url.path.split("/")[-2])
        return httpx.Response(
            answer.status_code, stream=httpx.ByteStream(bytes(answer.body)), headers=dict(answer.headers)
        )


@dataclass(frozen=True)
class Case:
    """One run's user and what it has: ids of the set-up's session and grant, if it made any."""

    user: str
    n: int
    session_id: UUID | None = None
    provider_id: str = ""
    grant_id: UUID | None = None
    endpoint: str = ""
    event_id: UUID | None = None

    @property
    def event(self) -> str:
        """Its public id."""
        assert self.event_id is not None
        return public_id(Kind.EVENT, self.account_id, self.event_id)

    @property
    def account_id(self) -> UUID:
        return account_id_of(self.user)

    @property
    def session_key(self) -> AccountThing:
        assert self.session_id is not None
        return AccountThing(self.account_id, self.session_id)

    @property
    def session(self) -> str:
        """Its public id."""
        assert self.session_id is not None
        return public_id(Kind.SESSION, self.account_id, self.session_id)

    @property
    def grant(self) -> str:
        assert self.grant_id is not None
        return public_id(Kind.GRANT, self.account_id, self.grant_id)

    def key(self, name: str) -> str:
        """An idempotency key of this run."""
        return f"{self.user}-{name}"


@dataclass
class Made:
    """What a set-up made, in the form in which :class:`World` gives it."""

    session: dict[str, Any] = field(default_factory=dict)
    grant: dict[str, Any] = field(default_factory=dict)
    endpoint: str = ""
    """The id of an endpoint, which all runs share."""
    event_id: UUID | None = None
    """Of an event of the set-up's user that was dispatched to it."""


class Post:
    """What an actor sends to endpoints: each request is a step of its own, and taken."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, str]] = []

    async def post(self, endpoint_id: UUID, target: Target, headers: Mapping[str, str], body: bytes) -> Answered:
        await pass_by("send an event")
        self.sent.append(headers)
        return Answered(204, None, b"")

    async def forget(self, endpoint_id: UUID) -> None:
        """There are no connections."""

    async def aclose(self) -> None:
        """There are no connections."""


@dataclass
class Seat:
    """One actor's own service: another process, as far as the database can tell."""

    actor: Actor
    world: World
    provider: Provider
    chances: Chances
    post: Post


@dataclass
class Stage:
    """Everything around one database; ``watch`` is a superuser's connection to it."""

    urls: DatabaseUrls
    seats: Sequence[Seat]
    watch: psycopg.AsyncConnection[Any]
    begun_at: Instant = Instant(0)
    _made: Made = field(default_factory=Made)
    _rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _entries: list[tuple[Entry, bytes]] = field(default_factory=list)
    _terms: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _limits: list[Any] = field(default_factory=list)
    _runs: int = 0
    _secrets: bytes = b""

    async def keep(self, made: Made) -> None:
        """Read what the set-up made, to be copied from now on."""
        self._made = made
        self.begun_at = self.seats[0].world.clock.now()
        account_id = account_id_of(SETUP_USER)
        async with self.seats[0].world.service.database.reading() as transaction:
            await self._load_signed(transaction, account_id)
        selects = ", ".join(
            f"(select coalesce(jsonb_agg(t), '[]') from {name} t where account_id = %(a)s) {name}" for name in _COPIED
        )
        async with self.watch.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(f"select {selects}".encode(), {"a": account_id})
            row = await cursor.fetchone()
        self._rows = {name: rows for name, rows in (row or {}).items() if rows}
        # So that whoever posts what is due finds the users of the runs alone.
        service = self.seats[0].world.service
        await post_due(service.database, service.ledger, self.begun_at)
        await post_recurring(service.database, service.ledger, self.begun_at)
        if made.endpoint:
            row = await (await self.watch.execute("select secrets from endpoints")).fetchone()
            assert row is not None
            self._secrets = row[0]

    async def _load_signed(self, transaction: Transaction, account_id: UUID) -> None:
        stored = select(entries).where(entries.c.account_id == account_id).order_by(entries.c.seq)
        self._entries = await signed_entries(transaction, (await transaction.execute(stored)).all())
        for row in await transaction.execute(select(grants).where(grants.c.account_id == account_id)):
            self._terms[str(row.id)] = terms_document(grant_of(row), row.cost_basis, row.reference)
        changes = select(limit_changes).where(limit_changes.c.account_id == account_id)
        self._limits = list((await transaction.execute(changes)).all())

    async def new_case(self) -> Case:
        """Another user with all that the set-up made."""
        self._runs += 1
        if self._made.endpoint:
            await self._forget_deliveries()
        user = f"{SETUP_USER}-{self._runs}"
        account_id = account_id_of(user)
        if self._rows:
            rows = self._rows_of(user, account_id)
            inserts = ", ".join(
                f"t_{name} as (insert into {name} select r.* from jsonb_populate_recordset(null::{name}, "
                f"(select document -> '{name}' from given)) r)"
                for name in rows
            )
            statement = f"with given as (select %s::jsonb document), {inserts} select 1"
            await self.watch.execute(statement.encode(), (json.dumps(rows),), prepare=True)
        for seat in self.seats:
            seat.chances.reset()
            if self._made.endpoint:
                seat.chances.token(64 * self._runs)  # what belongs to no account stays from run to run, under its ids
            seat.provider.started = 0
        made = self._made
        return Case(
            user=user,
            n=self._runs,
            session_id=_thing(Kind.SESSION, made.session),
            provider_id=made.session.get("provider_session_id") or "",
            grant_id=_thing(Kind.GRANT, made.grant),
            endpoint=made.endpoint,
            event_id=made.event_id,
        )

    async def _forget_deliveries(self) -> None:
        """Workers look for whatever is due: they must find what belongs to this run, and the endpoint as it was."""
        await self.watch.execute("update accounts set dispatched_seq = event_seq where dispatched_seq < event_seq")
        await self.watch.execute(
            "update deliveries set state = 'dropped', due_at = null, finished_at = created_at where state = 'waiting'"
        )
        await self.watch.execute("update endpoints set secrets = %s, failing_since = null", (self._secrets,))
        for seat in self.seats:
            seat.post.sent.clear()

    def _rows_of(self, user: str, account_id: UUID) -> dict[str, list[dict[str, Any]]]:
        rows = {name: [{**row, "account_id": str(account_id)} for row in stored] for name, stored in self._rows.items()}
        key = LEDGER_KEYS.current
        for row in rows.get("grants", ()):
            row["terms_mac"] = _bytea(grant_mac(account_id, self._terms[row["id"]], key))
        previous: bytes | None = None
        tags: dict[int, bytes] = {}
        for entry, _ in self._entries:
            previous = mac(replace(entry, account_id=account_id), previous, key)
            tags[entry.seq] = previous
        for row in rows.get("entries", ()):
            row["mac"] = _bytea(tags[row["seq"]])
        limits = {change.n: change for change in self._limits}
        for row in rows.get("limit_changes", ()):
            change = limits[row["n"]]
            tag = limit_mac(account_id, change.n, change.credit_limit, change.reason, change.at, key)
            row["mac"] = _bytea(tag)
        (account,) = rows["accounts"]
        account["user_id"] = user
        if previous is not None:
            account["head_mac"] = _bytea(previous)
        return rows

    async def close(self) -> None:
        for seat in self.seats:
            await seat.world.client.aclose()
            await seat.world.service.stop()
        await self.watch.close()


def _thing(kind: Kind, document: Mapping[str, Any]) -> UUID | None:
    thing = parse_public_id(kind, document["id"]) if document else None
    return None if thing is None else thing.id


def _bytea(value: bytes) -> str:
    return "\\x" + value.hex()


@asynccontextmanager
async def stage(urls: DatabaseUrls, actors: int) -> AsyncIterator[Stage]:
    """Services for so many actors on a database of their own."""
    database = psycopg.conninfo.conninfo_to_dict(urls.service)["dbname"]
    watch = await psycopg.AsyncConnection.connect(urls.superuser, dbname=str(database), autocommit=True)
    # A wait of this connection for an actor would never end.
    await watch.execute("set lock_timeout = '5s'")
    script = ScriptedProvider("http://provider.example", "provider-key")
    made = Stage(urls, [await _seat(urls, letter, script) for letter in LETTERS[:actors]], watch)
    # Time passes in leaps here, which are no outages.
    await watch.execute(FORGET_REPORTS.encode())
    try:
        yield made
    finally:
        await made.close()


async def _seat(urls: DatabaseUrls, letter: str, script: ScriptedProvider) -> Seat:
    clock, chances, provider = ManualClock(), Chances(letter), Provider(script, letter)
    settings = load_settings(
        database_url=urls.service,
        gabber_base_url=script.url,
        gabber_api_key=script.api_key,
        public_url=PUBLIC_URL,
        secret="test-secret-0123456789",
        ledger_keys=KEY_BYTES.decode(),
        bootstrap_admin_key=ADMIN_KEY,
        stripe_webhook_secrets=STRIPE_SECRET,
        stripe_credits_per_minor_unit="usd=0.1",
    )
    # Leases of the provider's rate meet each other in a pair of their own.
    post = Post()
    service = Service(
        settings,
        urls.service,
        clock=clock,
        randomness=chances,
        transport=provider,
        permits=Unlimited(),
        sender=post,
    )
    actor = Actor(letter)
    token = ACTOR.set(actor)  # the writer of heartbeats is started here, and belongs to the actor
    try:
        await service.start()
    finally:
        ACTOR.reset(token)
    transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    client = httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL, headers=headers)
    return Seat(actor, World(service, client, script, clock, settings), provider, chances, post)


@contextmanager
def databases_of_one_run() -> Iterator[WorkerDatabases]:
    """Databases for a run outside of pytest."""

    def migrate_as_owner(owner_url: str) -> None:
        migrate(owner_url, SERVICE)

    with worker_databases(migrate_as_owner, run_id=uuid4().hex, worker="turnstile") as found:
        yield found


def webhook(world: World, case: Case) -> str:
    return PATH + world.service.tokens.mint(case.session_key)


__all__ = ["LEDGER_KEYS", "Case", "LedgerKeys", "Made", "Seat", "Stage", "databases_of_one_run", "stage", "webhook"]
