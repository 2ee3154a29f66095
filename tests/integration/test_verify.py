"""Each check of ``talktime verify`` finds what it is for, in a database with a little of everything in it."""
# ruff: noqa: E501 - tables, one case a line

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from typer.testing import CliRunner, Result

from app.cli import cli
from app.core.ids import account_id_of
from app.db.database import Database
from app.db.embedded import DatabaseUrls
from app.ledger.checks import CHECKS
from app.ledger.findings import Finding
from app.ledger.heads import EXPORTED, HeadsFile, export_heads
from app.ledger.keys import LedgerKeys
from app.ledger.verify import CHAIN, IDENTITY, LIMITS, TERMS, verify
from tests.support.clock import ManualClock
from tests.support.corrections import adjust, refund, rerate, set_credit_limit, void
from tests.support.invariants import LEDGER_KEYS, findings
from tests.support.postgres import WorkerDatabases, ask, tell
from tests.support.scripted_provider import ProviderHost, ScriptedProvider
from tests.support.stripe import paid
from tests.support.world import World, world

USERS = ("spender", "debtor", "talker", "waster", "mended", "late", "sunk", "payer")
APPEND_ONLY = (
    "charges", "entries", "events", "funding", "hold_changes", "limit_changes", "postings", "session_steps", "snapshots",
)  # fmt: skip


async def tell_story(urls: DatabaseUrls, provider: ScriptedProvider) -> None:
    """A spender with two grants and a charge, a debtor who repaid in part, a talker, a waster of expired credits, one
    whose charge was mended in every way, one whose refund came too late for a grant, one sunk below the floor."""
    async with world(urls.service, provider) as talktime:
        soon = "2026-03-01T12:30:00Z"
        for user, amount, terms in (
            ("spender", "10", {"kind": "promotional"}),
            ("spender", "100", {}),
            ("debtor", "5", {}),
            ("talker", "100", {}),
            ("waster", "7", {"expires_at": soon}),
            ("waster", "8", {"effective_at": "2027-01-01T00:00:00Z"}),
            ("late", "12", {"kind": "promotional", "expires_at": soon}),
            ("late", "100", {}),
            ("mended", "30", {"kind": "promotional"}),
            ("sunk", "5", {}),
        ):
            await talktime.grant(user, amount, **terms)
        await set_credit_limit(talktime, "debtor", "100")
        for user in ("spender", "debtor"):
            await talk(talktime, user)
        mended, late = await talk(talktime, "mended"), await talk(talktime, "late")
        talktime.clock.advance(3600)
        await mend(talktime, mended)
        await refund(talktime, "late", late, "20")
        await adjust(talktime, "sunk", "-9", below_floor=True)
        await talktime.grant("debtor", "10")
        await talktime.grant("waster", "9")
        await talktime.start("talker", time_limit_s=40)
        await paid(talktime, "payer", 1000, refunded=300)
        body = {"amount": "5", "period": "day", "leftover": "rollover"}
        made = await talktime.client.post("/v1/users/payer/recurring-grants", json=body)
        assert made.status_code == 201


async def mend(talktime: World, session: dict[str, Any]) -> None:
    """Refund, re-rate and adjust either way; void a grant that is open and one of the future."""
    user = "mended"
    await refund(talktime, user, session, "5")
    await rerate(talktime, user, session, "16")
    await rerate(talktime, user, session, "18")
    await adjust(talktime, user, "3", cause="up")
    await adjust(talktime, user, "-2", cause="down")
    for terms in ({}, {"effective_at": "2027-01-01T00:00:00Z"}):
        await void(talktime, user, await talktime.grant(user, "8", **terms))


async def talk(talktime: World, user: str) -> dict[str, Any]:
    session = await talktime.start(user, time_limit_s=60)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("user", 10))
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)
    assert settled["charged"] == "20"
    return settled


@dataclass
class Story:
    urls: DatabaseUrls
    superuser: str
    """To the database itself."""

    def after(
        self,
        statements: str,
        keys: LedgerKeys | None = LEDGER_KEYS,
        heads: Sequence[bytes] = (),
        *,
        protected: bool = True,
    ) -> list[Finding]:
        """What verify finds after ``statements``, run by a superuser with all triggers off; then all is as before.

        ``protected``: the triggers that refuse changes are on again.
        """

        async def tamper(connection: AsyncConnection) -> None:
            for table in (*APPEND_ONLY, "accounts", "grants", "sessions", "holds", "hold_lines"):
                await connection.execute(text(f"alter table {table} disable trigger all"))
            for statement in statements.split(";"):
                changed = await connection.execute(text(_with_accounts(statement)))
                assert changed.rowcount > 0, f"tampered with nothing: {statement}"
            for table in APPEND_ONLY if protected else ():
                await connection.execute(text(f"alter table {table} enable always trigger refuse_change"))
                await connection.execute(text(f"alter table {table} enable always trigger refuse_truncate"))

        return self.found_after(self.superuser, tamper, keys, heads)

    def found_after(
        self,
        url: str,
        tamper: Callable[[AsyncConnection], Awaitable[None]],
        keys: LedgerKeys | None = LEDGER_KEYS,
        heads: Sequence[bytes] = (),
    ) -> list[Finding]:
        async def tampered() -> list[Finding]:
            engine = create_async_engine(make_url(url).set(drivername="postgresql+psycopg"))
            files = [HeadsFile(f"file {n}", BytesIO(content), LEDGER_KEYS) for n, content in enumerate(heads)]
            try:
                async with engine.connect() as connection:
                    await tamper(connection)
                    return (await verify(connection, keys, heads=files)).all
            finally:
                await engine.dispose()

        return asyncio.run(tampered())

    @cached_property
    def heads(self) -> bytes:
        """The heads as they are, exported."""
        return asyncio.run(exported(self.urls.service))


async def exported(url: str) -> bytes:
    database, content = Database(url, pool_size=1), BytesIO()
    try:
        async with database.reading() as transaction:
            await export_heads(transaction, LEDGER_KEYS, ManualClock().now(), content.write)
    finally:
        await database.close()
    return content.getvalue()


def _with_accounts(statement: str) -> str:
    for user in USERS:
        statement = statement.replace("$" + user, f"'{account_id_of(user)}'")
    return statement


@pytest.fixture(scope="module")
def story(databases: WorkerDatabases, providers: ProviderHost) -> Iterator[Story]:
    with databases.fresh() as urls:
        asyncio.run(tell_story(urls, providers.script()))
        superuser = make_url(urls.superuser).set(database=make_url(urls.service).database)
        yield Story(urls, superuser.render_as_string(hide_password=False))


def test_nothing_is_found_where_nothing_is_wrong(story: Story) -> None:
    assert story.after("select 1") == []


CHARGE = "account_id = $spender and kind = 'charge'"
LAST = "account_id = $waster and seq = (select max(seq) from entries where account_id = $waster)"
ITS = "account_id = $waster and entry_id = (select id from entries where account_id = $waster and seq = 3)"
FORGED = "f0f0f0f0-0000-4000-8000-000000000000"

TAMPERINGS = [
    ("amount of a charge", f"update entries set amount = amount + 1 where {CHARGE}",
     "entry-amount entry-balance debit-funding session-debit entry-chain"),
    ("balance of the last entry", f"update entries set balance_after = 0 where {LAST}",
     "entry-balance account-head entry-chain"),
    ("booking time", f"update entries set created_at = created_at - interval '1 year' where {LAST}",
     "entry-time account-head entry-chain"),
    ("natural key", f"update entries set natural_key = 'settle:again' where {CHARGE}", "entry-kind entry-chain"),
    ("credits of a payment", "update payments set credits = credits + 1", "payment-grant"),
    ("what was taken of a payment", "update payments set taken = taken + 1", "payment-taken"),
    ("a payment's steps", "update payments set moves = moves + 1", "payment-taken"),
    ("a period that was never given", "update recurring_grants set next_n = next_n + 1", "recurring-period"),
    ("a period of another grant", "update grants set reference = reference || '7' where starts_with(reference, 'recurring')",
     "recurring-period"),
    ("head", "update accounts set head_mac = 'x' where account_id = $waster", "account-head"),
    ("middle entry deleted", "delete from entries where account_id = $waster and seq = 2",
     "entry-seq entry-balance grant-spent entry-chain"),
    ("last entry deleted", f"delete from entries where {LAST}", "account-head grant-entry"),
    ("rows swapped", ("update entries set seq = 9 where account_id = $spender and seq = 1;"
     "update entries set seq = 1 where account_id = $spender and seq = 2;"
     "update entries set seq = 2 where account_id = $spender and seq = 9"),
     "entry-balance entry-chain"),
    ("posting changed", "update postings set amount = amount + 1 where ledger_account = 'consumed'",
     "entry-postings entry-chain"),
    ("system side of a posting", ("update postings set ledger_account = 'expired' where account_id = $spender "
     "and ledger_account = 'consumed'"), "entry-contra entry-chain"),
    ("postings deleted", f"delete from postings where {ITS}", "entry-postings entry-amount entry-chain"),
    ("posting of credit moved to a grant", ("update postings set ledger_account = 'grants.paid' where account_id = $debtor "
     "and ledger_account = 'credit' and amount < 0"), "entry-funding account-debt entry-chain"),
    ("funding changed", "update funding set amount = amount + 1 where account_id = $spender",
     "debit-funding entry-funding grant-spent entry-chain"),
    ("debt repaid twice", ("insert into funding select account_id, entry_id, 9::smallint, debit_entry_id, grant_id, amount "
     "from funding where account_id = $debtor and entry_id <> debit_entry_id"),
     "debit-funding entry-funding grant-spent entry-chain"),
    ("more given back than was paid", ("update funding set amount = amount - 20000000 where account_id = $mended "
     "and amount < 0"), "debit-funding entry-funding corrections grant-spent entry-chain"),
    ("given back of credit, not of the grant", "update funding set grant_id = null where account_id = $mended and amount < 0",
     "debit-funding entry-funding grant-spent entry-chain"),
    ("goodwill given to the grant that expired", ("update entries set grant_id = null where account_id = $late and kind = "
     "'refund' and grant_id is not null"), "grant-entry grant-spent entry-chain"),
    ("repayment turned round", ("update funding set amount = -amount where account_id = $debtor "
     "and entry_id <> debit_entry_id"), "funding-line debit-funding entry-funding entry-chain"),
    ("refund of what is no debit", ("update funding set debit_entry_id = (select id from entries where account_id = $mended "
     "and seq = 1) where account_id = $mended and amount < 0"), "debit-funding corrections entry-chain"),
    ("refund that reverses something else", ("update entries set reverses = (select id from entries where account_id = "
     "$mended and seq = 1) where account_id = $mended and kind = 'refund'"), "corrections entry-chain"),
    ("refund that reverses nothing that is there", (f"update entries set reverses = '{FORGED}' where account_id = $mended "
     "and kind = 'refund'"), "references corrections entry-chain"),
    ("refund beyond the charge", ("update entries set amount = amount + 30000000 where account_id = $mended "
     "and kind = 'refund'"), "corrections entry-amount entry-balance entry-contra entry-chain"),
    ("refund of another session", ("update entries set session_id = (select id from sessions where account_id = $late) "
     "where account_id = $mended and kind = 'refund'"), "references corrections entry-chain"),
    ("funding by a grant that is not there", f"update funding set grant_id = '{FORGED}' where account_id = $spender",
     "references grant-spent entry-chain"),
    ("debit that is not there", f"update funding set debit_entry_id = '{FORGED}' where account_id = $spender",
     "references debit-funding entry-chain"),
    ("entry of a session that is not there", f"update entries set session_id = '{FORGED}' where {CHARGE}",
     "references session-debit entry-chain"),
    ("remainder", "update grants set remaining = remaining - 1 where account_id = $spender and kind = 'paid'",
     "account-balance grant-spent"),
    ("remainder and balance", ("update grants set remaining = remaining - 1 where account_id = $spender and kind = 'paid';"
     "update accounts set balance = balance - 1 where account_id = $spender"), "account-head grant-spent"),
    ("remainder of a grant that got back", ("update grants set remaining = remaining + 1 where account_id = $mended "
     "and amount = 30000000"), "account-balance grant-spent"),
    ("balance", "update accounts set balance = balance + 1 where account_id = $waster", "account-head account-balance"),
    ("debt", "update accounts set debt = debt + 1 where account_id = $debtor", "account-debt account-balance"),
    ("time of the last change", "update accounts set last_change_at = last_entry_at - interval '1 s' where account_id = $waster",
     "account-head"),
    ("due never", "update accounts set next_due_at = null where account_id = $waster", "account-due"),
    ("credit limit", "update accounts set credit_limit = credit_limit + 1 where account_id = $debtor", "account-limit"),
    ("limit change forged", "insert into limit_changes select account_id, 2, 2 * credit_limit, reason, at, key_id, mac from limit_changes",
     "account-limit limit-change"),
    ("credit limit forged whole", ("insert into limit_changes select account_id, 2, 2 * credit_limit, reason, at, key_id, 'x' "
     "from limit_changes; update accounts set credit_limit = 2 * credit_limit where account_id = $debtor"), "limit-change"),
    ("limit changes with a gap", "update limit_changes set n = 2", "account-limit limit-change"),
    ("limit change deleted", "delete from limit_changes; update accounts set credit_limit = 0 where account_id = $debtor",
     "floor"),
    ("limit lower than what was drawn", ("update limit_changes set credit_limit = 14999999;"
     "update accounts set credit_limit = 14999999 where account_id = $debtor"), "floor limit-change"),
    ("adjustment below the floor as any other", ("update entries set natural_key = 'adjust:down' where account_id = $sunk "
     "and amount < 0"), "floor entry-chain"),
    ("account deleted", "delete from accounts where account_id = $talker", "references"),
    ("held", "update accounts set held = held + 1 where account_id = $talker", "account-held"),
    ("usable credits beside debt", "update grants set remaining = 1 where account_id = $debtor",
     "debt-beside-credits account-balance grant-spent"),
    ("hold", "update holds set amount = amount - 1 where account_id = $talker", "hold-lines hold-changes account-held"),
    ("hold line", "update hold_lines set amount = amount - 1 where account_id = $talker", "hold-lines grant-held"),
    ("hold lines of other grants", ("update hold_lines l set grant_id = o.grant_id from hold_lines o where l.account_id = "
     "$spender and o.account_id = l.account_id and o.session_id = l.session_id and o.line <> l.line"), "hold-lines"),
    ("held of a grant that had expired", ("update grants set expires_at = effective_at + interval '1 us', "
     "effective_at = effective_at - interval '1 s' where account_id = $talker;"
     "update sessions set requested_at = requested_at + interval '1 s' where account_id = $talker"),
     "hold-lines account-due grant-terms entry-chain"),
    ("what was authorized", "update sessions set authorized = authorized + 1 where account_id = $talker", "hold-changes"),
    ("what was authorized and held", ("update sessions set authorized = authorized + 1 where account_id = $talker;"
     "update hold_changes set delta = delta + 1 where account_id = $talker"), "hold-seq hold-changes"),
    ("held after a change", "update hold_changes set held_after = held_after + 1 where account_id = $spender and n = 1",
     "hold-seq"),
    ("number of hold changes", "update accounts set hold_seq = hold_seq + 1 where account_id = $talker", "hold-seq"),
    ("order of hold changes", "update hold_changes set at = at - interval '1 day' where account_id = $spender and n = 2",
     "hold-seq"),
    ("hold resolved another way", "update holds set state = 'released' where account_id = $spender", "hold-changes"),
    ("held of a grant", "update grants set held = held + 1 where account_id = $talker", "grant-held"),
    ("hold change deleted", "delete from hold_changes where account_id = $talker", "hold-changes"),
    ("hold change raised", "update hold_changes set delta = delta + 1 where account_id = $spender and n = 2", "hold-changes"),
    ("hold deleted", "delete from holds where account_id = $talker", "session-hold account-held"),
    ("hold active again", "update holds set state = 'active', resolved_at = null where account_id = $spender", "session-hold"),
    ("scheduled grant made active", "update grants set state = 'active' where account_id = $waster and state = 'scheduled'",
     "grant-entry account-balance"),
    ("scheduled grant without a signature", ("update grants set terms_mac = null, terms_key = null "
     "where account_id = $waster and state = 'scheduled'"), "grant-signed"),
    ("terms of a scheduled grant", ("update grants set amount = 80, remaining = 80 where account_id = $waster "
     "and state = 'scheduled'"), "grant-terms"),
    ("scheduled grant forged", (f"insert into grants select account_id, '{FORGED}', kind, priority, amount, effective_at, "
     "expires_at, cost_basis, 'forged', metadata, created_at, amount, 0, 'scheduled', false, terms_key, terms_mac from grants "
     "where account_id = $waster and state = 'scheduled'"), "grant-terms"),
    ("forged grant that adds up", (f"insert into grants select account_id, '{FORGED}', kind, priority, amount, effective_at, "
     "expires_at, cost_basis, 'forged', metadata, created_at, amount, 0, 'active', false, terms_key, terms_mac from grants "
     "where account_id = $sunk and reference is null;"
     f"insert into entries select account_id, '{FORGED}', 3, 'grant:{FORGED}', kind, amount, 1000000, null,"
     f"  '{FORGED}', null, null, 'forged', (select max(created_at) from entries where account_id = $sunk), key_id, 'x'"
     "  from entries where account_id = $sunk and kind = 'grant';"
     f"insert into postings values ($sunk, '{FORGED}', 0, 'issued.paid', -5000000), ($sunk, '{FORGED}', 1, 'grants.paid', 1000000),"
     f"  ($sunk, '{FORGED}', 2, 'credit', 4000000);"
     f"insert into funding select account_id, '{FORGED}', 0, id, '{FORGED}', 4000000 from entries where account_id = $sunk"
     "  and kind = 'adjustment';"
     f"update grants set remaining = 1000000 where id = '{FORGED}';"
     "update accounts set balance = 1000000, debt = 0, seq = 3, head_mac = 'x' where account_id = $sunk"),
     "grant-terms entry-chain"),
    ("grant activated that nobody signed", "update grants set terms_mac = null, terms_key = null where account_id = $talker",
     "grant-signed"),
    ("expired grant voided", "update grants set state = 'voided' where account_id = $waster and state = 'expired'",
     "grant-state"),
    ("voided grant open again", "update grants set state = 'active' where account_id = $mended and state = 'voided'",
     "grant-state grant-entry grant-spent"),
    ("grant without its entry", "update entries set grant_id = null where account_id = $talker", "grant-entry entry-chain"),
    ("amount of a charge row", "update charges set amount = amount + 1 where account_id = $spender", "session-charge"),
    ("amount of a re-rate", "update charges set amount = amount + 1 where account_id = $mended and version = 2",
     "charge-entry"),
    ("amount of the last re-rate", "update charges set amount = amount + 1 where account_id = $mended and version = 3",
     "charge-entry session-debit"),
    ("entry of a re-rate", "update charges set entry_id = null where account_id = $mended and version = 2",
     "charge-entry entry-chain"),
    ("first version deleted", "delete from charges where account_id = $mended and version = 1", "session-charge"),
    ("last re-rate deleted", "delete from charges where account_id = $mended and version = 3", "session-debit entry-chain"),
    ("charge beyond what was authorized", "update charges set amount = 1000000000 where account_id = $spender",
     "session-charge session-debit charge-entry"),
    ("charge of an entry that is not there", f"update charges set entry_id = '{FORGED}' where account_id = $spender",
     "references session-debit charge-entry entry-chain"),
    ("charge deleted", "delete from charges where account_id = $spender", "session-charge session-debit entry-chain"),
    ("charged", "update sessions set charged = charged - 1 where account_id = $spender", "session-charge session-debit"),
    ("state", "update sessions set state = 'over' where account_id = $talker", "session-steps"),
    ("number of steps", "update sessions set steps = steps - 1 where account_id = $spender", "session-steps"),
    ("first step deleted", "delete from session_steps where account_id = $spender and n = 1", "session-steps"),
    ("middle step deleted", "delete from session_steps where account_id = $spender and n = 2", "session-steps"),
    ("illegal step", ("update session_steps set to_state = 'failed' where account_id = $spender and n = 2;"
     "update session_steps set from_state = 'failed' where account_id = $spender and n = 3"), "session-steps"),
    ("event deleted", "delete from events where account_id = $spender and seq = 1", "event-seq"),
    ("account of another user", "update accounts set user_id = 'mallory' where account_id = $waster", "account-identity"),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "expected"), [pytest.param(s, e, id=name) for name, s, e in TAMPERINGS])
def test_a_contradiction_is_found_by_name(story: Story, statements: str, expected: str) -> None:
    assert {item.check for item in story.after(statements)} >= set(expected.split())


def test_triggers_left_off_are_found_by_table(story: Story) -> None:
    found = story.after("select 1", protected=False)
    assert {(item.check, item.row) for item in found} == {("append-only", f"table {table}") for table in APPEND_ONLY}
    assert len(found) == 2 * len(APPEND_ONLY)


@pytest.mark.parametrize(
    "statement",
    [
        "drop trigger refuse_change on entries",
        "drop trigger refuse_truncate on entries",
        "alter table entries enable trigger refuse_change",
        "alter table entries enable replica trigger refuse_change",
        "alter table entries disable trigger user",
        ("drop trigger refuse_change on entries; create trigger refuse_change before update or delete on entries "
         "for each row when (false) execute function refuse_change();"
         "alter table entries enable always trigger refuse_change"),
        ("create or replace function refuse_change() returns trigger language plpgsql as "
         "'begin return coalesce(new, old); end'"),
    ],
)  # fmt: skip
def test_a_protection_weakened_by_the_owner_is_found(story: Story, statement: str) -> None:
    async def weaken(connection: AsyncConnection) -> None:
        await connection.execute(text(statement))

    found = story.found_after(story.urls.owner, weaken)
    assert ("append-only", "table entries") in {(item.check, item.row) for item in found}
    assert {item.check for item in found} == {"append-only"}


def test_every_check_is_seen_to_fire() -> None:
    expected = {name for _, _, names in TAMPERINGS for name in names.split()}
    assert expected | {EXPORTED, "append-only"} == {check.name for check in CHECKS} | {
        CHAIN,
        IDENTITY,
        LIMITS,
        TERMS,
        EXPORTED,
    }


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(f"update entries set reason = 'a gift' where {CHARGE}", id="reason"),
        pytest.param(f"update entries set reference = 'other' where {LAST}", id="reference"),
        pytest.param("update charges set evidence_digest = 'x' where account_id = $spender", id="evidence of a charge"),
        pytest.param(
            "update entries set mac = 'x' where account_id = $waster and seq = 3;"
            "update accounts set head_mac = 'x' where account_id = $waster", id="MAC and head",
        ),
        pytest.param(f"update entries set key_id = 'mine' where {CHARGE};"
                     "update accounts set head_key = 'mine' where account_id = $spender", id="key"),
        pytest.param(
            f"update entries set amount = -19000000, balance_after = balance_after + 1000000 where {CHARGE};"
            "update postings set amount = sign(amount) * (abs(amount) - 1000000) where account_id = $spender and (ledger_account"
            "  = 'consumed' or ledger_account = 'grants.paid' and amount < 0);"
            "update funding set amount = 9000000 where account_id = $spender and grant_id = (select id from grants where"
            "  account_id = $spender and kind = 'paid');"
            "update grants set remaining = remaining + 1000000 where account_id = $spender and kind = 'paid';"
            "update accounts set balance = balance + 1000000 where account_id = $spender;"
            "update sessions set charged = 19000000 where account_id = $spender;"
            "update charges set amount = 19000000 where account_id = $spender",
            id="a lower charge, everywhere",
        ),
    ],
)  # fmt: skip
def test_a_forgery_that_adds_up_breaks_the_chain_and_nothing_else(story: Story, statements: str) -> None:
    assert {item.check for item in story.after(statements)} == {CHAIN}
    assert story.after(statements, keys=None) == []


REWOUND = (
    f"delete from postings where {ITS};"
    "delete from grants where account_id = $waster"
    "  and id = (select grant_id from entries where account_id = $waster and seq = 3);"
    "delete from entries where account_id = $waster and seq = 3;"
    "delete from events where account_id = $waster and seq = (select event_seq from accounts where user_id = 'waster');"
    "update accounts a set balance = e.balance_after, seq = e.seq, head_mac = e.mac, last_entry_at = e.created_at,"
    "  last_change_at = e.created_at, event_seq = event_seq - 1"
    "  from entries e where e.account_id = a.account_id and e.seq = 2 and a.user_id = 'waster'"
)
REMOVED = ";".join(
    f"delete from {table} where account_id = $waster"
    for table in ("postings", "entries", "grants", "events", "accounts")
)
REWRITTEN = (
    "update entries set amount = 900000000, balance_after = 900000000 where account_id = $waster and seq = 3;"
    f"update postings set amount = sign(amount) * 900000000 where {ITS};"
    "update grants set amount = 900000000, remaining = 900000000 where account_id = $waster"
    "  and id = (select grant_id from entries where account_id = $waster and seq = 3);"
    "update accounts set balance = 900000000 where account_id = $waster;"
    "update entries set mac = sha256(cast(id::text as bytea)) where account_id = $waster;"
    "update accounts a set head_mac = e.mac from entries e where a.account_id = $waster"
    "  and e.account_id = a.account_id and e.seq = a.seq"
)


def named(found: Sequence[Finding], user: str) -> set[tuple[str, str]]:
    """The findings in a user's account: check and row."""
    assert {item.account_id for item in found} == {account_id_of(user)}
    return {(item.check, item.row) for item in found}


@pytest.mark.parametrize(
    ("user", "statements", "expected"),
    [
        pytest.param("spender", f"update entries set amount = amount + 1 where {CHARGE}",
                     {("entry-amount", "entry 3"), ("entry-chain", "entry 3")}, id="changed amount"),
        pytest.param("waster", "delete from entries where account_id = $waster and seq = 2",
                     {("entry-seq", "entry 3"), ("entry-chain", "entry 3")}, id="entry deleted in the middle"),
        pytest.param("spender", ("update entries set seq = 9 where account_id = $spender and seq = 1;"
                     "update entries set seq = 1 where account_id = $spender and seq = 2;"
                     "update entries set seq = 2 where account_id = $spender and seq = 9"),
                     {("entry-chain", "entry 1"), ("entry-chain", "entry 2"), ("entry-balance", "entry 1")},
                     id="swapped pair"),
        pytest.param("waster", REWRITTEN, {("entry-chain", f"entry {n}") for n in (1, 2, 3)}, id="whole account rewritten"),
        pytest.param("waster", "update grants set remaining = remaining - 1 where account_id = $waster and state = 'active'",
                     {("grant-spent", "grant $"), ("account-balance", "account")}, id="changed remainder"),
    ],
)  # fmt: skip
def test_the_row_is_named(story: Story, user: str, statements: str, expected: set[tuple[str, str]]) -> None:
    found = {(check, re.sub("grant .+", "grant $", row)) for check, row in named(story.after(statements), user)}
    assert found >= expected
    assert any("(id " in item.detail for item in story.after(statements) if item.check == CHAIN) == (
        CHAIN in {check for check, _ in expected}
    )


def test_what_follows_a_broken_link_is_judged_by_itself(story: Story) -> None:
    found = story.after("update entries set reason = 'a gift' where account_id = $waster and seq = 1")
    assert named(found, "waster") == {(CHAIN, "entry 1")}


def test_without_the_key_a_whole_account_can_be_rewritten_so_that_it_adds_up(story: Story) -> None:
    assert story.after(REWRITTEN, keys=None) == []


def test_a_last_entry_deleted_with_the_account_rewound_shows_only_against_heads_exported_after_it(story: Story) -> None:
    assert story.after(REWOUND) == []
    (finding,) = story.after(REWOUND, heads=[story.heads])
    assert (finding.check, finding.account_id, finding.row) == (EXPORTED, account_id_of("waster"), "entry 3")
    assert "it is not there" in finding.detail
    assert "exported at 2026-03-01T12:00:00.000000Z" in finding.detail


def test_an_account_deleted_with_all_that_it_had_shows_only_against_heads(story: Story) -> None:
    assert story.after(REMOVED) == []
    (finding,) = story.after(REMOVED, heads=[story.heads])
    assert (finding.check, finding.account_id, finding.row) == (EXPORTED, account_id_of("waster"), "entry 3")
    assert "its account is not there" in finding.detail


def test_an_account_rewritten_even_with_the_key_shows_against_heads(story: Story) -> None:
    statement = "update entries set mac = 'x' where account_id = $waster and seq = 3"
    found = story.after(statement, keys=None, heads=[story.heads, story.heads])
    assert [(item.check, item.row) for item in found if item.check == EXPORTED] == [(EXPORTED, "entry 3")] * 2


def test_heads_agree_with_what_came_after_them(story: Story) -> None:
    assert story.after("select 1", heads=[story.heads]) == []


FORGED_ENTRY = {
    "account_id": "$waster", "id": FORGED, "seq": "4", "natural_key": "repay:forged", "kind": "repayment", "amount": "0",
    "balance_after": "9000000", "created_at": "2026-03-02T00:00:00Z", "key_id": LEDGER_KEYS.current_id, "mac": "forged",
}  # fmt: skip


async def insert_entry(connection: AsyncConnection) -> None:
    values = ", ".join(f"'{value}'" for value in FORGED_ENTRY.values())
    await connection.execute(text(_forged(f"insert into entries ({', '.join(FORGED_ENTRY)}) values ({values})")))


async def copy_entry(connection: AsyncConnection) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    async with (
        driver.cursor() as cursor,
        cursor.copy(f"copy entries ({', '.join(FORGED_ENTRY)}) from stdin") as copy,
    ):
        await copy.write(_forged("\t".join(FORGED_ENTRY.values())) + "\n")


async def merge_entry(connection: AsyncConnection) -> None:
    values = ", ".join(f"'{value}'" for value in FORGED_ENTRY.values())
    statement = (
        "merge into entries e using (select 1) s on false when not matched then "
        f"insert ({', '.join(FORGED_ENTRY)}) values ({values})"
    )
    await connection.execute(text(_forged(statement)))


def _forged(statement: str) -> str:
    return statement.replace("$waster", str(account_id_of("waster")))


@pytest.mark.parametrize("insert", [insert_entry, copy_entry, merge_entry])
def test_an_entry_forged_by_the_services_own_role_is_named(
    story: Story, insert: Callable[[AsyncConnection], Awaitable[None]]
) -> None:
    async def forge(connection: AsyncConnection) -> None:
        await insert(connection)
        forged = "update accounts set seq = 4, head_mac = 'forged', last_entry_at = '2026-03-02', last_change_at = '2026-03-02'"
        await connection.execute(text(_forged(f"{forged} where account_id = '$waster'")))

    found = named(story.found_after(story.urls.service, forge), "waster")
    assert found == {(CHAIN, "entry 4"), ("entry-postings", "entry 4")}


def test_how_much_is_read_at_once_makes_no_difference(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = story.after(REWRITTEN, heads=[story.heads])
    monkeypatch.setattr("app.ledger.verify.AT_ONCE", 2)
    monkeypatch.setattr("app.ledger.heads.AT_ONCE", 2)
    assert story.after(REWRITTEN, heads=[asyncio.run(exported(story.urls.service))]) == whole
    assert story.after("select 1") == []


def test_progress_is_told_to_the_end(story: Story) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    async def read() -> None:
        database = Database(story.urls.service, pool_size=1)
        heads = HeadsFile("heads", BytesIO(story.heads), LEDGER_KEYS)
        async with database.reading() as transaction:
            await verify(
                transaction,
                LEDGER_KEYS,
                heads=[heads],
                progress=lambda what, done, total: told.setdefault(what, []).append((done, total)),
            )
        await database.close()

    asyncio.run(read())
    assert list(told) == ["checks", "accounts", "entries", "grants", "exported heads"]
    assert all(steps[-1][0] == steps[-1][1] > 0 for steps in told.values())


def test_another_key_fits_no_entry_and_no_grant(story: Story) -> None:
    found = asyncio.run(findings(story.urls.service, LedgerKeys([b"another-ledger-key"])))
    assert {item.check for item in found} == {CHAIN, LIMITS, TERMS}
    assert all("not ours" in item.detail for item in found)


# The commands


KEY = "test-ledger-key-0123456789"


def run(monkeypatch: pytest.MonkeyPatch, url: str, keys: str | None, *arguments: str) -> Result:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", url)
    if keys is not None:
        monkeypatch.setenv("TALKTIME_LEDGER_KEYS", keys)
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})


def run_verify(monkeypatch: pytest.MonkeyPatch, url: str, keys: str | None, *options: str) -> tuple[int, str, str]:
    result = run(monkeypatch, url, keys, "verify", *options)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_says_that_all_is_well(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run_verify(monkeypatch, story.urls.service, "test-ledger-key-0123456789")
    assert (code, out, err) == (0, "Everything that was checked adds up.\n", "")


def test_the_command_says_when_the_chain_was_not_checked(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run_verify(monkeypatch, story.urls.service, None)
    assert (code, out) == (0, "Everything that was checked adds up.\n")
    assert err.startswith("The chain was not checked: that needs TALKTIME_LEDGER_KEYS")
    code, out, _ = run_verify(monkeypatch, story.urls.service, None, "--json")
    assert (code, json.loads(out)) == (0, {"chain_checked": False, "cut_off": [], "findings": []})


def test_the_command_shows_what_does_not_hold_and_fails(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "another-ledger-key-0123456789"
    code, out, _ = run_verify(monkeypatch, story.urls.service, wrong)
    assert code == 1
    assert "entry-chain" in out
    assert "not ours" in out
    code, out, _ = run_verify(monkeypatch, story.urls.service, wrong, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["chain_checked"] is True
    assert {item["check"] for item in document["findings"]} == {CHAIN, LIMITS, TERMS}


def test_the_command_says_which_checks_found_more(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ledger.findings", "ledger.verify", "commands.verification"):
        monkeypatch.setattr(f"app.{module}.MAX_FINDINGS", 2)
    wrong = "another-ledger-key-0123456789"
    code, out, err = run_verify(monkeypatch, story.urls.service, wrong)
    assert (code, out.count("entry-chain")) == (1, 2)
    assert err.splitlines() == [f"{check} found more than these 2 rows." for check in (CHAIN, TERMS)]
    document = json.loads(run_verify(monkeypatch, story.urls.service, wrong, "--json")[1])
    assert document["cut_off"] == [CHAIN, TERMS]
    assert len(document["findings"]) == 5


def test_heads_are_exported_noted_and_held_against_the_ledger(
    databases: WorkerDatabases, providers: ProviderHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def give(url: str) -> None:
        async with world(url, providers.script()) as talktime:
            await talktime.grant("keeper", "5")
            await talktime.grant("loser", "7")

    file = tmp_path / "heads"
    with databases.fresh() as urls:
        asyncio.run(give(urls.service))
        result = run(monkeypatch, urls.service, KEY, "export", "heads", str(file))
        assert (result.exit_code, result.stdout) == (0, ""), result.output
        assert [path.name for path in tmp_path.iterdir()] == ["heads"]
        digest = hashlib.sha256(file.read_bytes()).digest()
        assert ask(urls.service, "select accounts, digest from exported_heads") == [(2, digest)]
        assert run_verify(monkeypatch, urls.service, KEY, "--heads", str(file), "--heads", str(file))[0] == 0
        result = run(monkeypatch, urls.service, KEY, "export", "heads", "-")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[1:-1] == file.read_text().splitlines()[1:-1]

        superuser = make_url(urls.superuser).set(database=make_url(urls.service).database)
        loser = f"where account_id = '{account_id_of('loser')}'"
        off, on = (
            "alter table {0} disable trigger refuse_change;",
            "alter table {0} enable always trigger refuse_change;",
        )
        tell(
            superuser.render_as_string(hide_password=False),
            "".join(
                f"{off.format(table)} delete from {table} {loser}; {on.format(table)}"
                for table in ("postings", "entries", "events")
            )
            + f"delete from grants {loser};"
            + f"update accounts set seq = 0, balance = 0, event_seq = 0, head_mac = null, head_key = null,"
            f" last_entry_at = null, last_change_at = null {loser}",
        )
        assert run_verify(monkeypatch, urls.service, KEY)[0] == 0
        code, out, _ = run_verify(monkeypatch, urls.service, KEY, "--heads", str(file), "--json")
        assert code == 1
        (finding,) = json.loads(out)["findings"]
        assert (finding["check"], finding["row"]) == (EXPORTED, "entry 1")
        assert finding["account_id"] == str(account_id_of("loser"))


@pytest.mark.parametrize(
    ("keys", "change", "message"),
    [
        (KEY, lambda content: content[:-1], "cut off or changed"),
        (KEY, lambda content: content.replace(b'"seq":3', b'"seq":2'), "cut off or changed"),
        (KEY, lambda content: b"", "not heads"),
        (KEY, None, "No such file"),
        ("another-ledger-key-0123456789", lambda content: content, "a key that is not among"),
        (None, lambda content: content, "Heads cannot be checked: that needs TALKTIME_LEDGER_KEYS"),
    ],
)
def test_bad_heads_are_an_error_and_no_finding(
    story: Story,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    keys: str | None,
    change: Callable[[bytes], bytes] | None,
    message: str,
) -> None:
    file = tmp_path / "heads"
    if change is not None:
        file.write_bytes(change(story.heads))
    code, out, err = run_verify(monkeypatch, story.urls.service, keys, "--heads", str(file))
    assert (code, out) == (2, "")
    assert message in err


def test_heads_that_cannot_be_written_leave_nothing(
    story: Story, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for keys, file, message in (
        (None, tmp_path / "heads", "Heads cannot be signed"),
        (KEY, tmp_path / "none" / "heads", "No such file"),
        (KEY, tmp_path, "Is a directory"),
    ):
        result = run(monkeypatch, story.urls.service, keys, "export", "heads", str(file))
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
