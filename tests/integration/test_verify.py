"""Each check of ``talktime verify`` finds what it is for, in a database with a little of everything in it."""
# ruff: noqa: E501 - tables, one case a line

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from typer.testing import CliRunner

from app.cli import cli
from app.core.ids import account_id_of
from app.db.embedded import DatabaseUrls
from app.ledger.checks import CHECKS
from app.ledger.keys import LedgerKeys
from app.ledger.verify import CHAIN, IDENTITY, Finding, verify
from tests.support.invariants import LEDGER_KEYS, findings
from tests.support.postgres import WorkerDatabases, tell
from tests.support.scripted_provider import ProviderHost, ScriptedProvider
from tests.support.world import World, world

USERS = ("spender", "debtor", "talker", "waster")
APPEND_ONLY = (
    "charges", "entries", "events", "funding", "hold_changes", "postings", "session_steps", "snapshots",
)  # fmt: skip


async def tell_story(urls: DatabaseUrls, provider: ScriptedProvider) -> None:
    """A spender with two grants and a charge, a debtor who repaid in part, a talker, a waster of expired credits."""
    async with world(urls.service, provider) as talktime:
        soon = "2026-03-01T12:30:00Z"
        for user, amount, terms in (
            ("spender", "10", {"kind": "promotional"}),
            ("spender", "100", {}),
            ("debtor", "5", {}),
            ("talker", "100", {}),
            ("waster", "7", {"expires_at": soon}),
            ("waster", "8", {"effective_at": "2027-01-01T00:00:00Z"}),
        ):
            await talktime.grant(user, amount, **terms)
        tell(urls.service, "update accounts set credit_limit = 100000000 where user_id = 'debtor'")
        for user in ("spender", "debtor"):
            await talk(talktime, user)
        talktime.clock.advance(3600)
        await talktime.grant("debtor", "10")
        await talktime.grant("waster", "9")
        await talktime.start("talker", time_limit_s=40)


async def talk(talktime: World, user: str) -> None:
    session = await talktime.start(user, time_limit_s=60)
    talktime.provider.say(session["provider_session_id"], ("agent", 10), ("user", 10))
    await talktime.heartbeats_until(session, 30)
    settled = await talktime.settle(session)
    assert settled["charged"] == "20"


@dataclass(frozen=True)
class Story:
    urls: DatabaseUrls
    superuser: str
    """To the database itself."""

    def after(self, statements: str, keys: LedgerKeys | None = LEDGER_KEYS) -> list[Finding]:
        """What verify finds after ``statements``, run by a superuser with all triggers off; then all is as before."""

        async def tampered() -> list[Finding]:
            engine = create_async_engine(make_url(self.superuser).set(drivername="postgresql+psycopg"))
            try:
                async with engine.connect() as connection:
                    for table in (*APPEND_ONLY, "accounts", "grants", "sessions", "holds", "hold_lines"):
                        await connection.execute(text(f"alter table {table} disable trigger all"))
                    for statement in statements.split(";"):
                        changed = await connection.execute(text(_with_accounts(statement)))
                        assert changed.rowcount > 0, f"tampered with nothing: {statement}"
                    return await verify(connection, keys)
            finally:
                await engine.dispose()

        return asyncio.run(tampered())


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
    ("natural key", f"update entries set natural_key = 'settle:again' where {CHARGE}", "session-debit entry-chain"),
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
    ("postings deleted", f"delete from postings where {ITS}", "entry-postings entry-amount entry-chain"),
    ("posting of credit moved to a grant", ("update postings set ledger_account = 'grants.paid' where account_id = $debtor "
     "and ledger_account = 'credit' and amount < 0"), "entry-funding account-debt entry-chain"),
    ("funding changed", "update funding set amount = amount + 1 where account_id = $spender",
     "debit-funding entry-funding grant-spent entry-chain"),
    ("debt repaid twice", ("insert into funding select account_id, entry_id, 9::smallint, debit_entry_id, grant_id, amount "
     "from funding where account_id = $debtor and entry_id <> debit_entry_id"),
     "debit-funding entry-funding grant-spent entry-chain"),
    ("funding by a grant that is not there", f"update funding set grant_id = '{FORGED}' where account_id = $spender",
     "references grant-spent entry-chain"),
    ("debit that is not there", f"update funding set debit_entry_id = '{FORGED}' where account_id = $spender",
     "references debit-funding entry-chain"),
    ("entry of a session that is not there", f"update entries set session_id = '{FORGED}' where {CHARGE}",
     "references session-debit entry-chain"),
    ("remainder", "update grants set remaining = remaining - 1 where account_id = $spender and kind = 'paid'",
     "account-balance grant-spent"),
    ("balance", "update accounts set balance = balance + 1 where account_id = $waster", "account-head account-balance"),
    ("debt", "update accounts set debt = debt + 1 where account_id = $debtor", "account-debt account-balance"),
    ("held", "update accounts set held = held + 1 where account_id = $talker", "account-held"),
    ("usable credits beside debt", "update grants set remaining = 1 where account_id = $debtor",
     "debt-beside-credits account-balance grant-spent"),
    ("hold", "update holds set amount = amount - 1 where account_id = $talker", "hold-lines hold-changes account-held"),
    ("hold line", "update hold_lines set amount = amount - 1 where account_id = $talker", "hold-lines grant-held"),
    ("held of a grant", "update grants set held = held + 1 where account_id = $talker", "grant-held"),
    ("hold change deleted", "delete from hold_changes where account_id = $talker", "hold-changes"),
    ("hold change raised", "update hold_changes set delta = delta + 1 where account_id = $spender and n = 2", "hold-changes"),
    ("hold deleted", "delete from holds where account_id = $talker", "session-hold account-held"),
    ("hold active again", "update holds set state = 'active', resolved_at = null where account_id = $spender", "session-hold"),
    ("scheduled grant made active", "update grants set state = 'active' where account_id = $waster and state = 'scheduled'",
     "grant-entry account-balance"),
    ("grant without its entry", "update entries set grant_id = null where account_id = $talker", "grant-entry entry-chain"),
    ("amount of a charge row", "update charges set amount = amount + 1 where account_id = $spender", "session-charge"),
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


def test_every_check_is_seen_to_fire() -> None:
    expected = {name for _, _, names in TAMPERINGS for name in names.split()}
    assert expected == {check.name for check in CHECKS} | {CHAIN, IDENTITY}


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(f"update entries set reason = 'a gift' where {CHARGE}", id="reason"),
        pytest.param(f"update entries set reference = 'other' where {LAST}", id="reference"),
        pytest.param("update grants set cost_basis = 1 where account_id = $spender", id="terms of a grant"),
        pytest.param("update charges set evidence_digest = 'x' where account_id = $spender", id="evidence of a charge"),
        pytest.param(
            "update postings set ledger_account = 'expired' where account_id = $spender "
            "and ledger_account = 'consumed'", id="system side of a posting",
        ),
        pytest.param(
            "update entries set mac = 'x' where account_id = $waster and seq = 3;"
            "update accounts set head_mac = 'x' where account_id = $waster", id="MAC and head",
        ),
        pytest.param(f"update entries set key_id = 'mine' where {CHARGE};"
                     "update accounts set head_key = 'mine' where account_id = $spender", id="key"),
        pytest.param(
            f"insert into grants select account_id, '{FORGED}', kind, priority, amount, effective_at, expires_at, cost_basis,"
            "  'forged', metadata, created_at, amount, 0, 'active' from grants"
            "  where account_id = $talker;"
            f"insert into entries select account_id, '{FORGED}', 2, 'grant:{FORGED}', kind, amount, 2 * amount, null,"
            f"  '{FORGED}', null, null, 'forged', created_at, key_id, 'x' from entries where account_id = $talker;"
            f"insert into postings select account_id, '{FORGED}', leg, ledger_account, amount from postings"
            "  where account_id = $talker;"
            "update accounts set balance = 2 * balance, seq = 2, head_mac = 'x' where account_id = $talker",
            id="forged grant that adds up",
        ),
    ],
)  # fmt: skip
def test_a_forgery_that_adds_up_breaks_the_chain_and_nothing_else(story: Story, statements: str) -> None:
    assert {item.check for item in story.after(statements)} == {CHAIN}
    assert story.after(statements, keys=None) == []


def test_rewinding_the_whole_account_shows_only_against_exported_heads(story: Story) -> None:
    last = "(select grant_id from entries where account_id = $waster and seq = 3)"
    rewound = (
        f"delete from postings where {ITS}; delete from grants where account_id = $waster and id = {last};"
        "delete from entries where account_id = $waster and seq = 3;"
        "delete from events where account_id = $waster and seq = (select event_seq from accounts where user_id = 'waster');"
        "update accounts a set balance = e.balance_after, seq = e.seq, head_mac = e.mac, last_entry_at = e.created_at,"
        " event_seq = event_seq - 1 from entries e where e.account_id = a.account_id and e.seq = 2 and a.user_id = 'waster'"
    )
    assert [item.check for item in story.after(rewound)] == []


def test_another_key_fits_no_entry(story: Story) -> None:
    found = asyncio.run(findings(story.urls.service, LedgerKeys([b"another-ledger-key"])))
    assert {item.check for item in found} == {CHAIN}
    assert all("not ours" in item.detail for item in found)


def run_verify(monkeypatch: pytest.MonkeyPatch, url: str, keys: str | None, *options: str) -> tuple[int, str, str]:
    monkeypatch.setenv("TALKTIME_DATABASE_URL", url)
    if keys is not None:
        monkeypatch.setenv("TALKTIME_LEDGER_KEYS", keys)
    result = CliRunner().invoke(cli, ["verify", *options], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_the_command_says_that_all_is_well(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run_verify(monkeypatch, story.urls.service, "test-ledger-key-0123456789")
    assert (code, out, err) == (0, "Everything that was checked adds up.\n", "")


def test_the_command_says_when_the_chain_was_not_checked(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run_verify(monkeypatch, story.urls.service, None)
    assert (code, out) == (0, "Everything that was checked adds up.\n")
    assert err.startswith("The chain was not checked: that needs TALKTIME_LEDGER_KEYS")
    code, out, _ = run_verify(monkeypatch, story.urls.service, None, "--json")
    assert (code, json.loads(out)) == (0, {"chain_checked": False, "findings": []})


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
    assert {item["check"] for item in document["findings"]} == {CHAIN}
