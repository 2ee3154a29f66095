"""Sessions: their steps, holds and charges, and what was given back of these."""

from typing import Final

from app.core.lifecycle import FIRST, STEPS
from app.ledger.checks.check import Check

_LEGAL: Final = ", ".join(
    f"('{before.value}', '{after.value}')" for before in STEPS for after in sorted(STEPS[before], key=str)
)
_FIRST: Final = ", ".join(f"'{state.value}'" for state in sorted(FIRST, key=str))

SESSIONS: Final = (
    Check(
        "session-charge",
        "A settled session, and one that came back into review, has charges, numbered from 1, the first of what it was"
        " charged, none beyond what was authorized; one that was written off may have none, and no other session has"
        " any.",
        """
        select s.account_id, 'session ' || s.id as row, s.state || ', charged ' || coalesce(s.charged::text, 'nothing')
               || '; ' || count(c.version) || ' charges, the first of '
               || coalesce(max(c.amount) filter (where c.version = 1), 0) as detail
        from sessions s left join charges c on c.account_id = s.account_id and c.session_id = s.id
        group by s.account_id, s.id, s.state, s.charged, s.authorized
        having case
            when s.state <> 'settled' and not (s.state = 'review' and s.settled_at is not null)
                then count(c.version) = 0
            when count(c.version) = 0 then s.charged = 0 and exists (
                select from session_steps t where t.account_id = s.account_id and t.session_id = s.id
                       and t.from_state = 'review' and t.to_state = 'settled')
            else count(c.version) = max(c.version) and max(c.amount) <= s.authorized
                 and max(c.amount) filter (where c.version = 1) = s.charged
            end is not true
        """,
    ),
    Check(
        "session-debit",
        "A session that was charged has one charge entry of that amount, which its first charge names; with its"
        " re-rates it comes to the last charge; no other session has any.",
        """
        select s.account_id, 'session ' || s.id as row, 'charged ' || coalesce(s.charged, 0) || ', '
               || coalesce(e.charges, 0) || ' entries of ' || coalesce(e.charged, 0) || ', re-rated '
               || coalesce(e.rerated, 0) as detail
        from sessions s
        left join (select account_id, session_id, count(*) filter (where kind = 'charge') as charges,
                          coalesce(sum(amount) filter (where kind = 'charge'), 0) as charged,
                          coalesce(sum(amount) filter (where kind = 'rerate'), 0) as rerated,
                          min(id::text) filter (where kind = 'charge') as id
                   from entries where kind in ('charge', 'rerate', 'refund') and session_id is not null
                   group by account_id, session_id) e on e.account_id = s.account_id and e.session_id = s.id
        left join (select account_id, session_id, (array_agg(entry_id order by version))[1] as entry_id,
                          (array_agg(amount order by version desc))[1] as amount
                   from charges group by account_id, session_id) c
                  on c.account_id = s.account_id and c.session_id = s.id
        where coalesce(e.charges, 0) <> (case when s.charged > 0 then 1 else 0 end)
           or -coalesce(e.charged, 0) <> coalesce(s.charged, 0)
           or e.id is distinct from c.entry_id::text
           or e.session_id is not null and s.settled_at is null
           or -coalesce(e.charged + e.rerated, 0) <> coalesce(c.amount, 0)
        """,
    ),
    Check(
        "charge-entry",
        "Each version of a charge names the entry of what it changed, and changed what its entries say.",
        # What is given back of several debits is as many entries; the keys of the others continue that of the first.
        """
        select v.account_id, 'charge ' || v.version || ' of ' || v.session_id as row, v.amount || ' after '
               || coalesce(v.before, 0) || ', entries of ' || coalesce(sum(x.amount), 0) as detail
        from (select *, lag(amount) over (partition by account_id, session_id order by version) as before
              from charges) v
        left join entries e on e.account_id = v.account_id and e.id = v.entry_id
        left join entries x on x.account_id = v.account_id and x.session_id = v.session_id and x.kind = e.kind
             and (x.id = e.id or starts_with(x.natural_key, e.natural_key || ':'))
        group by v.account_id, v.session_id, v.version, v.amount, v.before, v.entry_id, e.kind
        having -coalesce(sum(x.amount), 0) <> v.amount - coalesce(v.before, 0)
            or (v.entry_id is null) <> (v.amount = coalesce(v.before, 0))
            or e.kind <> case v.version when 1 then 'charge' else 'rerate' end
        """,
    ),
    Check(
        "corrections",
        "No more is given back of a session than it was debited; what gives back names in its funding, and reverses,"
        " debits of the same session.",
        """
        select account_id, 'session ' || session_id as row, 'debited ' || -sum(amount) filter (where amount < 0)
               || ', given back ' || sum(amount) filter (where amount > 0) as detail
        from entries where session_id is not null and kind in ('charge', 'rerate', 'refund')
        group by account_id, session_id
        having coalesce(sum(amount), 0) > 0
        union all
        select e.account_id, 'entry ' || e.seq, 'gives back ' || e.amount || ', by its funding '
               || coalesce(-sum(f.amount), 0) || ' of other debits or as many'
        from entries e
        left join funding f on f.account_id = e.account_id and f.entry_id = e.id and f.amount < 0
        left join entries d on d.account_id = f.account_id and d.id = f.debit_entry_id
             and d.session_id = e.session_id and d.kind in ('charge', 'rerate') and d.amount < 0
        where e.kind in ('refund', 'rerate') and e.amount > 0
        group by e.account_id, e.id, e.seq, e.amount, e.reverses
        having -coalesce(sum(f.amount), 0) <> e.amount or count(d.id) <> count(f.line)
            or not coalesce(bool_or(d.id = e.reverses), false)
        """,
    ),
    Check(
        "session-hold",
        "Every session has a hold: active while it may still cost something, resolved once it is settled or failed.",
        """
        select s.account_id, 'session ' || s.id as row, s.state || ', hold ' || coalesce(h.state, 'missing') as detail
        from sessions s left join holds h on h.account_id = s.account_id and h.session_id = s.id
        where h.state is null
           or s.state = 'settled' and h.state = 'active'
           or s.state = 'failed' and h.state <> 'released'
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
           or n = 1 and to_state not in ({_FIRST})
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
)
