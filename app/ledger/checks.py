"""What must hold of everything that is stored, as SQL: each check selects the rows that break it.

Every statement gives ``account_id``, ``row`` (which row) and ``detail`` (what is wrong), and none if all is well.
docs/invariants.md says of each where the code asserts it.
"""

from typing import Final, NamedTuple

from app.core.lifecycle import STEPS


class Check(NamedTuple):
    """``promise``: what holds if ``sql`` finds nothing."""

    name: str
    promise: str
    sql: str


_LEGAL: Final = ", ".join(
    f"('{before.value}', '{after.value}')" for before in STEPS for after in sorted(STEPS[before], key=str)
)

_ENTRIES: Final = (
    Check(
        "entry-postings",
        "The postings of each entry sum to 0, and there are some.",
        """
        select e.account_id, 'entry ' || e.seq as row,
               'its ' || count(p.leg) || ' postings sum to ' || coalesce(sum(p.amount), 0) as detail
        from entries e left join postings p on p.account_id = e.account_id and p.entry_id = e.id
        group by e.account_id, e.id, e.seq
        having count(p.leg) < 2 or sum(p.amount) <> 0
        """,
    ),
    Check(
        "entry-amount",
        "An entry's amount is what its postings bring to the user's side: grants and credit.",
        """
        select e.account_id, 'entry ' || e.seq as row, 'amount ' || e.amount || ', the user''s side '
               || coalesce(sum(p.amount), 0) as detail
        from entries e left join postings p on p.account_id = e.account_id and p.entry_id = e.id
             and (p.ledger_account = 'credit' or p.ledger_account like 'grants.%')
        group by e.account_id, e.id, e.seq, e.amount
        having coalesce(sum(p.amount), 0) <> e.amount
        """,
    ),
    Check(
        "entry-seq",
        "The entries of an account are numbered from 1 without a gap.",
        """
        select account_id, 'entry ' || seq as row, 'the one before it is ' || coalesce(before::text, 'none') as detail
        from (select account_id, seq, lag(seq) over (partition by account_id order by seq) as before from entries) e
        where seq <> coalesce(before, 0) + 1
        """,
    ),
    Check(
        "entry-balance",
        "Each entry's balance is that of the one before it plus its amount.",
        """
        select account_id, 'entry ' || seq as row, 'balance ' || balance_after || ' after '
               || coalesce(before, 0) || ' and ' || amount as detail
        from (select account_id, seq, amount, balance_after,
                     lag(balance_after) over (partition by account_id order by seq) as before from entries) e
        where balance_after::numeric <> coalesce(before, 0)::numeric + amount
        """,
    ),
    Check(
        "entry-time",
        "Booking time never runs back within an account.",
        """
        select account_id, 'entry ' || seq as row, 'booked at ' || created_at || ' after ' || before as detail
        from (select account_id, seq, created_at,
                     lag(created_at) over (partition by account_id order by seq) as before from entries) e
        where created_at < before
        """,
    ),
    Check(
        "account-head",
        "An account's balance, number of entries, head and last booking time are those of its last entry.",
        """
        select a.account_id, 'account' as row, 'balance ' || a.balance || ' and seq ' || a.seq || ', last entry '
               || coalesce(e.balance_after, 0) || ' and ' || coalesce(e.seq, 0) as detail
        from accounts a left join lateral (
            select * from entries x where x.account_id = a.account_id order by x.seq desc limit 1) e on true
        where (a.balance, a.seq) is distinct from (coalesce(e.balance_after, 0), coalesce(e.seq, 0))
           or (a.head_mac, a.head_key, a.last_entry_at) is distinct from (e.mac, e.key_id, e.created_at)
        """,
    ),
    Check(
        "entry-funding",
        "The funding of each entry is what its postings take from grants and from credit.",
        """
        select e.account_id, 'entry ' || e.seq as row,
               'credit: ' || p.credit || ' posted, ' || f.credit || ' funded; grants: '
               || p.granted || ' posted, ' || f.granted || ' funded' as detail
        from entries e
        cross join lateral (
            select coalesce(sum(amount) filter (where ledger_account = 'credit'), 0) as credit,
                   coalesce(sum(amount) filter (where ledger_account <> 'credit'), 0)
                   - case when e.kind in ('grant', 'expiry') then e.amount else 0 end as granted
            from postings where account_id = e.account_id and entry_id = e.id
                 and (ledger_account = 'credit' or ledger_account like 'grants.%')) p
        cross join lateral (
            select coalesce(sum(case when debit_entry_id <> entry_id then amount
                                     when grant_id is null then -amount else 0 end), 0) as credit,
                   -coalesce(sum(amount) filter (where grant_id is not null), 0) as granted
            from funding where account_id = e.account_id and entry_id = e.id) f
        where (p.credit, p.granted) is distinct from (f.credit, f.granted)
        """,
    ),
    Check(
        "debit-funding",
        "The funding of each charge sums to it, and no debt is repaid more than once.",
        """
        select e.account_id, 'entry ' || e.seq as row, 'amount ' || e.amount || ', funded ' || f.funded
               || ', on credit ' || f.credit || ', repaid ' || f.repaid as detail
        from entries e
        cross join lateral (
            select coalesce(sum(amount) filter (where entry_id = e.id), 0) as funded,
                   coalesce(sum(amount) filter (where entry_id = e.id and grant_id is null), 0) as credit,
                   coalesce(sum(amount) filter (where entry_id <> e.id), 0) as repaid
            from funding where account_id = e.account_id and debit_entry_id = e.id) f
        where e.kind = 'charge' and (f.funded <> -e.amount or f.repaid > f.credit)
           or e.kind <> 'charge' and (f.funded <> 0 or f.repaid <> 0)
        """,
    ),
    Check(
        "references",
        "What an entry or its funding names is there.",
        """
        select f.account_id, 'funding ' || f.entry_id || ' line ' || f.line as row,
               'names a debit or grant that is not there' as detail
        from funding f
        where not exists (select from entries e where e.account_id = f.account_id and e.id = f.debit_entry_id)
           or f.grant_id is not null
              and not exists (select from grants g where g.account_id = f.account_id and g.id = f.grant_id)
        union all
        select e.account_id, 'entry ' || e.seq, 'names a session, grant or entry that is not there'
        from entries e
        where e.session_id is not null
              and not exists (select from sessions s where s.account_id = e.account_id and s.id = e.session_id)
           or e.grant_id is not null
              and not exists (select from grants g where g.account_id = e.account_id and g.id = e.grant_id)
           or e.reverses is not null
              and not exists (select from entries o where o.account_id = e.account_id and o.id = e.reverses)
        """,
    ),
)

_ACCOUNTS: Final = (
    Check(
        "account-debt",
        "An account's debt is the sum of its credit postings.",
        """
        select a.account_id, 'account' as row, 'debt ' || a.debt || ', credit postings '
               || coalesce(p.credit, 0) as detail
        from accounts a left join (
            select account_id, sum(amount) as credit from postings where ledger_account = 'credit'
            group by account_id) p using (account_id)
        where a.debt <> -coalesce(p.credit, 0)
        """,
    ),
    Check(
        "account-balance",
        "Balance is what remains of the grants less the debt.",
        """
        select a.account_id, 'account' as row, 'balance ' || a.balance || ', remaining '
               || coalesce(g.remaining, 0) || ', debt ' || a.debt as detail
        from accounts a left join (
            select account_id, sum(remaining) as remaining from grants where state <> 'scheduled'
            group by account_id) g using (account_id)
        where a.balance <> coalesce(g.remaining, 0) - a.debt
        """,
    ),
    Check(
        "account-held",
        "What an account holds is the sum of its holds.",
        """
        select a.account_id, 'account' as row, 'held ' || a.held || ', holds ' || coalesce(h.amount, 0) as detail
        from accounts a left join (
            select account_id, sum(amount) as amount from holds group by account_id) h using (account_id)
        where a.held <> coalesce(h.amount, 0)
        """,
    ),
    Check(
        "debt-beside-credits",
        "While there is debt, no grant has a usable remainder that is not held.",
        """
        select a.account_id, 'grant ' || g.id as row, (g.remaining - g.held) || ' usable beside a debt of '
               || a.debt as detail
        from accounts a join grants g using (account_id)
        where a.debt > 0 and g.state = 'active' and g.remaining > g.held
        """,
    ),
    Check(
        "hold-lines",
        "A hold is the sum of its lines.",
        """
        select h.account_id, 'hold of ' || h.session_id as row,
               'amount ' || h.amount || ', lines ' || coalesce(l.amount, 0) as detail
        from holds h left join (
            select account_id, session_id, sum(amount) as amount from hold_lines
            group by account_id, session_id) l using (account_id, session_id)
        where h.amount <> coalesce(l.amount, 0)
        """,
    ),
    Check(
        "hold-changes",
        "A hold is the sum of its changes, numbered from 1; the first is what was authorized, none after it raises it.",
        """
        select h.account_id, 'hold of ' || h.session_id as row, 'amount ' || h.amount || ' after ' || h.changes
               || ' changes; ' || count(c.n) || ' add up to ' || coalesce(sum(c.delta), 0) as detail
        from holds h join sessions s on s.account_id = h.account_id and s.id = h.session_id
             left join hold_changes c on c.account_id = h.account_id and c.session_id = h.session_id
        group by h.account_id, h.session_id, h.amount, h.changes, s.authorized
        having h.amount <> coalesce(sum(c.delta), 0) or h.changes <> count(c.n) or h.changes <> coalesce(max(c.n), 0)
            or s.authorized is distinct from max(c.delta) filter (where c.n = 1)
            or max(c.delta) filter (where c.n > 1) > 0
        """,
    ),
    Check(
        "grant-held",
        "What is held of a grant is the sum of the hold lines on it.",
        """
        select g.account_id, 'grant ' || g.id as row, 'held ' || g.held || ', lines ' || coalesce(l.amount, 0) as detail
        from grants g left join (
            select account_id, grant_id, sum(amount) as amount from hold_lines
            group by account_id, grant_id) l on l.account_id = g.account_id and l.grant_id = g.id
        where g.held <> coalesce(l.amount, 0)
        """,
    ),
    Check(
        "grant-entry",
        "A grant is an entry of its amount once it is effective, and none before.",
        """
        select g.account_id, 'grant ' || g.id as row, g.state || ', ' || count(e.id) || ' entries of '
               || coalesce(sum(e.amount), 0) as detail
        from grants g left join entries e
             on e.account_id = g.account_id and e.grant_id = g.id and e.kind = 'grant'
        group by g.account_id, g.id, g.state, g.amount
        having count(e.id) <> (case when g.state = 'scheduled' then 0 else 1 end)
            or sum(e.amount) <> g.amount or min(e.natural_key) <> 'grant:' || g.id
        """,
    ),
    Check(
        "grant-spent",
        "What was given is what remains, what was spent and what expired.",
        """
        select g.account_id, 'grant ' || g.id as row, 'amount ' || g.amount || ', remaining ' || g.remaining
               || ', spent ' || coalesce(f.amount, 0) || ', expired ' || coalesce(x.amount, 0) as detail
        from grants g
        left join (select account_id, grant_id, sum(amount) as amount from funding
                   group by account_id, grant_id) f on f.account_id = g.account_id and f.grant_id = g.id
        left join (select account_id, grant_id, -sum(amount) as amount from entries where kind = 'expiry'
                   group by account_id, grant_id) x on x.account_id = g.account_id and x.grant_id = g.id
        where g.amount <> g.remaining + coalesce(f.amount, 0) + coalesce(x.amount, 0)
        """,
    ),
)

_SESSIONS: Final = (
    Check(
        "session-charge",
        "A settled session has one charge, of what it was charged; no other session has any.",
        """
        select s.account_id, 'session ' || s.id as row, s.state || ', charged ' || coalesce(s.charged::text, 'nothing')
               || '; ' || count(c.version) || ' charges of ' || coalesce(sum(c.amount), 0) as detail
        from sessions s left join charges c on c.account_id = s.account_id and c.session_id = s.id
        group by s.account_id, s.id, s.state, s.charged
        having count(c.version) <> (case when s.state = 'settled' then 1 else 0 end)
            or s.state = 'settled' and s.charged is distinct from sum(c.amount)
        """,
    ),
    Check(
        "session-debit",
        "A session that was charged has one entry of that amount, which its charge names; no other session has one.",
        """
        select s.account_id, 'session ' || s.id as row, 'charged ' || coalesce(s.charged, 0) || ', '
               || count(e.id) || ' entries of ' || coalesce(sum(e.amount), 0) as detail
        from sessions s
        left join entries e on e.account_id = s.account_id and e.session_id = s.id and e.kind = 'charge'
        left join charges c on c.account_id = s.account_id and c.session_id = s.id
        group by s.account_id, s.id, s.charged
        having count(e.id) <> (case when s.charged > 0 then 1 else 0 end)
            or -sum(e.amount) <> s.charged or min(e.natural_key) <> 'settle:' || s.id
            or min(e.id::text) is distinct from min(c.entry_id::text)
        """,
    ),
    Check(
        "session-hold",
        "Every session has a hold: active while it may still cost something, resolved once it is settled or failed.",
        """
        select s.account_id, 'session ' || s.id as row, s.state || ', hold ' || coalesce(h.state, 'missing') as detail
        from sessions s left join holds h on h.account_id = s.account_id and h.session_id = s.id
        where h.state is null
           or s.state in ('settled', 'failed') and h.state = 'active'
           or s.state in ('starting', 'unconfirmed', 'live', 'over') and h.state <> 'active'
        """,
    ),
    Check(
        "session-steps",
        "The steps of a session are numbered from 1, follow each other, are legal, and lead to its state.",
        f"""
        select account_id, 'session ' || session_id || ' step ' || n as row,
               coalesce(from_state, 'nothing') || ' to ' || to_state as detail
        from (select *, lag(n) over session as before_n, lag(to_state) over session as before
              from session_steps window session as (partition by account_id, session_id order by n)) t
        where n <> coalesce(before_n, 0) + 1 or from_state is distinct from before
           or n = 1 and to_state <> 'starting'
           or n > 1 and (from_state, to_state) not in ({_LEGAL})
        union all
        select s.account_id, 'session ' || s.id, s.state || ' after ' || s.steps || ' steps, the last one to '
               || coalesce(t.to_state, 'nothing')
        from sessions s left join session_steps t
             on t.account_id = s.account_id and t.session_id = s.id and t.n = s.steps
        where t.to_state is distinct from s.state
           or exists (select from session_steps x
                      where x.account_id = s.account_id and x.session_id = s.id and x.n > s.steps)
        """,  # noqa: S608 - the states of our own enumeration
    ),
    Check(
        "event-seq",
        "The events of an account are numbered from 1 without a gap, up to the number that the account has.",
        """
        select a.account_id, 'account' as row, 'event_seq ' || a.event_seq || ', ' || count(v.seq)
               || ' events up to ' || coalesce(max(v.seq), 0) as detail
        from accounts a left join events v using (account_id)
        group by a.account_id, a.event_seq
        having a.event_seq <> count(v.seq) or a.event_seq <> coalesce(max(v.seq), 0) or min(v.seq) <> 1
        """,
    ),
)

CHECKS: Final = (*_ENTRIES, *_ACCOUNTS, *_SESSIONS)
