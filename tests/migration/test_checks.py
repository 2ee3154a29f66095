"""Every CHECK of the schema refuses something: one statement a case, run against rows that are valid."""
# ruff: noqa: E501 - a table, one case a line

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from app.db.embedded import DatabaseUrls
from tests.support.postgres import WorkerDatabases, ask, tell

A, S, E = (f"'{n}0000000-0000-0000-0000-000000000000'" for n in (1, 2, 3))

SEED = f"""
insert into accounts values ({A}, 'u', 0, 0, 0, 0, 0, 0, null, null, null, null, null, '{{}}', false, null, now());
insert into grants values ({A}, {E}, 'paid', 50, 10, now(), null, null, null, '{{}}', now(), 10, 0, 'active');
insert into rate_cards values ({E}, 'c', 1, '{{}}', now(), null, null, now());
insert into sessions (account_id, id, persona, scenario, metadata, state, rate_card_id, time_limit, authorized, accrued,
    anomalies, requested_at, steps, attempts) values ({A}, {S}, 'p', 's', '{{}}', 'live', {E}, 1, 10, 0, '{{}}', now(), 1, 0);
insert into holds values ({A}, {S}, 10, 'active', 1, null);
insert into hold_lines values ({A}, {S}, 0, {E}, 10);
insert into events values ({A}, {E}, 1, 'grant.created', '{{}}', now());
insert into endpoints values ({E}, 'https://a.example', null, '{{}}', '', 'active', now());
insert into deliveries values ({A}, {E}, {E}, 'waiting', 0, now(), null, null, now());
insert into payments values ({A}, {E}, 'stripe:pi_1', 'granted', null, 'u', {A}, {E}, 10, 100, 'usd', 100, 50, '{{}}', 5, 1, now(), now());
insert into recurring_grants values ({A}, {E}, 10, 'paid', 50, null, '{{}}', 'day', now(), null, 2, 'rollover', 5, 'active', 1, 0, now(), now(), now());
insert into idempotency values ({A}, 'k', 'r', 'pending', null, null, null, null, now(), now());
"""

ENTRY = (
    f"insert into entries values ({A}, {E}, {{seq}}, 'k', 'grant', 1, 1, null, null, null, null, null, now(), 'k', 'm')"
)
FAILED = f"insert into failed_pulls values ({A}, {S}, {{slot}}, {{n}}, '', 'f', 'd', now(), now(), {{times}}, '[]', '')"
CASES = [
    ("accounts_user_id_check", "update accounts set user_id = ''"),
    ("accounts_user_id_check", "update accounts set user_id = repeat('é', 129)"),
    ("accounts_debt_check", "update accounts set debt = -1"),
    ("accounts_held_check", "update accounts set held = -1"),
    ("accounts_credit_limit_check", "update accounts set credit_limit = -1"),
    ("accounts_seq_check", "update accounts set seq = -1, head_mac = 'm', head_key = 'k'"),
    ("accounts_seq_check", "update accounts set event_seq = -1, dispatched_seq = -1"),
    ("accounts_dispatched_seq_check", "update accounts set dispatched_seq = 1"),
    ("outboxes_dispatched_seq_check", f"insert into outboxes values ({A}, 1, 2)"),
    ("accounts_head_check", "update accounts set seq = 1"),
    ("accounts_head_check", "update accounts set seq = 1, head_mac = 'm'"),
    ("accounts_head_check", "update accounts set seq = 1, head_key = 'k'"),
    ("accounts_head_check", "update accounts set head_mac = 'm', head_key = 'k'"),
    ("accounts_hold_seq_check", "update accounts set hold_seq = -1"),
    ("accounts_alert_level_check", "update accounts set alert_level = 'high'"),
    ("grants_terms_check", "update grants set terms_mac = 'm'"),
    ("grants_terms_check", "update grants set terms_key = 'k'"),
    ("grants_kind_check", "update grants set kind = 'gift'"),
    ("grants_state_check", "update grants set state = 'gone'"),
    ("grants_priority_check", "update grants set priority = -1"),
    ("grants_priority_check", "update grants set priority = 101"),
    ("grants_amount_check", "update grants set amount = 0, remaining = 0"),
    ("grants_remaining_check", "update grants set remaining = 11"),
    ("grants_remaining_check", "update grants set remaining = -1, held = -1"),
    ("grants_remaining_check", "update grants set held = 11"),
    ("grants_remaining_check", "update grants set held = -1"),
    ("grants_scheduled_check", "update grants set state = 'scheduled', held = 1"),
    ("grants_scheduled_check", "update grants set state = 'scheduled', remaining = 9"),
    ("grants_closed_check", "update grants set state = 'expired'"),
    ("grants_closed_check", "update grants set state = 'voided', held = 9"),
    ("grants_dates_check", "update grants set expires_at = effective_at"),
    ("grants_cost_basis_check", "update grants set cost_basis = -1"),
    ("sessions_state_check", "update sessions set state = 'paused'"),
    ("sessions_amounts_check", "update sessions set authorized = -1"),
    ("sessions_amounts_check", "update sessions set accrued = -1"),
    ("sessions_amounts_check", "update sessions set state = 'settled', charged = -1"),
    ("sessions_amounts_check", "update sessions set state = 'settled', charged = 11"),
    ("sessions_amounts_check", "update sessions set leakage = -1"),
    ("sessions_settled_check", "update sessions set state = 'settled'"),
    ("sessions_settled_check", "update sessions set charged = 0"),
    ("sessions_time_limit_check", "update sessions set time_limit = 0"),
    ("sessions_lease_check", f"update sessions set lease_token = {A}"),
    ("sessions_lease_check", "update sessions set lease_until = now()"),
    ("holds_state_check", "update holds set state = 'open', amount = 0, resolved_at = now()"),
    ("holds_amount_check", "update holds set amount = -1"),
    ("holds_amount_check", "update holds set state = 'settled', resolved_at = now()"),
    ("holds_resolved_check", "update holds set state = 'released', amount = 0"),
    ("holds_resolved_check", "update holds set resolved_at = now()"),
    ("hold_lines_amount_check", "update hold_lines set amount = -1"),
    ("hold_changes_held_after_check", f"insert into hold_changes values ({A}, {S}, 1, 1, -1, 'w', now(), 1)"),
    ("entries_seq_check", ENTRY.format(seq=0)),
    ("postings_amount_check", f"{ENTRY.format(seq=1)}; insert into postings values ({A}, {E}, 0, 'credit', 0)"),
    ("funding_amount_check", f"{ENTRY.format(seq=1)}; insert into funding values ({A}, {E}, 0, {E}, null, 0)"),
    ("snapshots_times_check", f"insert into snapshots values ({A}, {S}, 1, now(), now() - interval '1us', 0, 0, null, '', 0, '')"),
    ("snapshots_times_check", f"insert into snapshots values ({A}, {S}, 1, now(), now(), -1, 0, null, '', 0, '')"),
    ("raw_bodies_digest_check", f"insert into raw_bodies values ({A}, {S}, '', 1, 200, null, now(), 0, false, '')"),
    ("raw_bodies_page_check", f"insert into raw_bodies values ({A}, {S}, sha256(''), 0, 200, null, now(), 0, false, '')"),
    ("failed_pulls_slot_check", FAILED.format(slot=0, n=1, times=1)),
    ("failed_pulls_slot_check", FAILED.format(slot=17, n=1, times=1)),
    ("failed_pulls_times_check", FAILED.format(slot=1, n=0, times=0)),
    ("failed_pulls_times_check", FAILED.format(slot=1, n=1, times=2)),
    ("charges_amounts_check", f"insert into charges values ({A}, {S}, 1, '1', '', 1, '', -1, 0, '', null, now())"),
    ("charges_amounts_check", f"insert into charges values ({A}, {S}, 1, '1', '', 1, '', 0, -1, '', null, now())"),
    ("idempotency_state_check", "update idempotency set state = 'open'"),
    ("rate_cards_version_check", "update rate_cards set version = 0"),
    ("endpoints_state_check", "update endpoints set state = 'gone'"),
    ("deliveries_state_check", "update deliveries set state = 'lost', due_at = null"),
    ("deliveries_due_check", "update deliveries set state = 'delivered'"),
    ("deliveries_due_check", "update deliveries set due_at = null"),
    ("payments_state_check", "update payments set state = 'gone', grant_id = null"),
    ("payments_granted_check", "update payments set state = 'waiting'"),
    ("payments_granted_check", "update payments set grant_id = null"),
    ("payments_grant_check", "update payments set user_account = null"),
    ("payments_grant_check", "update payments set credits = 0, taken = 0"),
    ("payments_amount_check", "update payments set amount = 0"),
    ("payments_amount_check", "update payments set currency = 'USD'"),
    ("payments_refunded_check", "update payments set refunded = 101"),
    ("payments_refunded_check", "update payments set refunded = -1"),
    ("payments_taken_check", "update payments set taken = 11"),
    ("payments_taken_check", "update payments set taken = -1"),
    ("payments_taken_check", "update payments set moves = -1"),
    ("recurring_grants_amount_check", "update recurring_grants set amount = 0"),
    ("recurring_grants_period_check", "update recurring_grants set period = 'hour'"),
    ("recurring_grants_periods_check", "update recurring_grants set periods = 0"),
    ("recurring_grants_leftover_check", "update recurring_grants set leftover = 'gift'"),
    ("recurring_grants_leftover_check", "update recurring_grants set leftover = 'expiry'"),
    ("recurring_grants_leftover_check", "update recurring_grants set rollover_cap = -1"),
    ("recurring_grants_state_check", "update recurring_grants set state = 'gone', due_at = null"),
    ("recurring_grants_due_check", "update recurring_grants set due_at = null"),
    ("recurring_grants_due_check", "update recurring_grants set state = 'paused'"),
    ("recurring_grants_next_n_check", "update recurring_grants set skipped = 2"),
    ("recurring_grants_next_n_check", "update recurring_grants set skipped = -1"),
    ("recurring_periods_amount_check", f"insert into recurring_periods values ({A}, {E}, -1, now(), 0, null, now())"),
    ("recurring_periods_amount_check", f"insert into recurring_periods values ({A}, {E}, 0, now(), 0, {E}, now())"),
    ("recurring_periods_amount_check", f"insert into recurring_periods values ({A}, {E}, 0, now(), 1, null, now())"),
    ("simulations_state_check", f"insert into simulations values ({A}, 'paused', '{{}}', null, 0, now())"),
]  # fmt: skip


@pytest.fixture(scope="module")
def superuser(databases: WorkerDatabases) -> Iterator[str]:
    """A superuser's URL: no right is in the way, so what refuses is the CHECK."""
    with databases.fresh() as urls:
        url = within(urls)
        tell(url, SEED)
        yield url


def within(urls: DatabaseUrls) -> str:
    found = make_url(urls.superuser).set(database=make_url(urls.service).database)
    return found.render_as_string(hide_password=False)


@pytest.mark.parametrize(("name", "statements"), CASES)
def test_a_check_refuses(superuser: str, name: str, statements: str) -> None:
    with psycopg.connect(superuser) as connection:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            connection.execute(statements.encode())
        connection.rollback()
    assert caught.value.diag.constraint_name == name


def test_every_check_is_in_the_table_above(superuser: str) -> None:
    names = ask(
        superuser, "select conname from pg_constraint where contype = 'c' and connamespace = 'public'::regnamespace"
    )
    assert {name for (name,) in names} == {name for name, _ in CASES}
