"""Holds: their lines and their changes."""

from typing import Final

from app.ledger.checks.check import Check

HOLDS: Final = (
    Check(
        "hold-lines",
        "A hold is the sum of its lines; they are in burn order, credit last, on grants not expired at the start.",
        """
        select h.account_id, 'hold of ' || h.session_id as row,
               'amount ' || h.amount || ', lines ' || coalesce(l.amount, 0) as detail
        from holds h left join (
            select account_id, session_id, sum(amount) as amount from hold_lines
            group by account_id, session_id) l using (account_id, session_id)
        where h.amount <> coalesce(l.amount, 0)
        union all
        select l.account_id, 'hold of ' || l.session_id || ' line ' || l.line,
               'on ' || coalesce('grant ' || l.grant_id, 'credit') || ' out of order, or expired before the start'
        from hold_lines l join sessions s on s.account_id = l.account_id and s.id = l.session_id
             left join grants g on g.account_id = l.account_id and g.id = l.grant_id
             left join hold_lines b
                  on b.account_id = l.account_id and b.session_id = l.session_id and b.line = l.line - 1
             left join grants bg on bg.account_id = b.account_id and bg.id = b.grant_id
        where g.expires_at <= s.requested_at or (b.session_id is null) <> (l.line = 0)
           or b.session_id is not null and b.grant_id is null
           or (bg.priority, coalesce(bg.expires_at, 'infinity'), bg.kind = 'paid',
               bg.effective_at, bg.created_at, bg.id)
              >= (g.priority, coalesce(g.expires_at, 'infinity'), g.kind = 'paid', g.effective_at, g.created_at, g.id)
        """,
    ),
    Check(
        "hold-changes",
        "A hold is the sum of its changes, numbered from 1; the first is what was authorized, none after it raises it,"
        " the last is how it was resolved.",
        """
        select h.account_id, 'hold of ' || h.session_id as row, h.state || ', amount ' || h.amount || ' after '
               || h.changes || ' changes; ' || count(c.n) || ' add up to ' || coalesce(sum(c.delta), 0) as detail
        from holds h join sessions s on s.account_id = h.account_id and s.id = h.session_id
             left join hold_changes c on c.account_id = h.account_id and c.session_id = h.session_id
        group by h.account_id, h.session_id, h.amount, h.changes, h.state, s.authorized
        having h.amount <> coalesce(sum(c.delta), 0) or h.changes <> count(c.n) or h.changes <> coalesce(max(c.n), 0)
            or s.authorized is distinct from max(c.delta) filter (where c.n = 1)
            or max(c.delta) filter (where c.n > 1) > 0
            or h.state <> case max(c.why) filter (where c.n = h.changes)
                          when 'settle' then 'settled' when 'release' then 'released' else 'active' end
        """,
    ),
    Check(
        "hold-seq",
        "The changes of an account's holds are numbered from 1 in time, each says what is held after it, and the last"
        " agrees with the account.",
        """
        select account_id, 'hold change ' || seq as row, delta || ' to ' || held_after || ' at ' || at || ' after '
               || coalesce(before || ' to ' || held_before || ' at ' || before_at, 'none') as detail
        from (select *, lag(seq) over account as before, lag(held_after) over account as held_before,
                     lag(at) over account as before_at
              from hold_changes window account as (partition by account_id order by seq)) c
        where seq <> coalesce(before, 0) + 1 or held_after <> coalesce(held_before, 0) + delta or at < before_at
        union all
        select a.account_id, 'account', 'holds ' || a.held || ' after change ' || a.hold_seq || ', the last is '
               || coalesce(c.seq, 0) || ' to ' || coalesce(c.held_after, 0)
        from accounts a left join lateral (
            select seq, held_after from hold_changes x where x.account_id = a.account_id order by seq desc limit 1) c
            on true
        where (a.hold_seq, a.held) is distinct from (coalesce(c.seq, 0), coalesce(c.held_after, 0))
        """,
    ),
)
