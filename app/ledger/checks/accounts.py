"""Accounts: what their rows sum up, and how deep into debt they went."""

from typing import Final

from app.core.corrections import BELOW_FLOOR
from app.ledger.checks.check import Check

ACCOUNTS: Final = (
    Check(
        "account-head",
        "An account's balance, number of entries, head and booking times are those of its last entry and last change.",
        """
        select a.account_id, 'account' as row, 'balance ' || a.balance || ' and seq ' || a.seq || ', last entry '
               || coalesce(e.balance_after, 0) || ' and ' || coalesce(e.seq, 0) || '; last change at '
               || coalesce(a.last_change_at::text, 'no time') as detail
        from accounts a left join lateral (
            select * from entries x where x.account_id = a.account_id order by x.seq desc limit 1) e on true
        where (a.balance, a.seq) is distinct from (coalesce(e.balance_after, 0), coalesce(e.seq, 0))
           or (a.head_mac, a.head_key, a.last_entry_at) is distinct from (e.mac, e.key_id, e.created_at)
           or a.last_change_at is distinct from greatest(
              e.created_at, (select max(at) from hold_changes c where c.account_id = a.account_id),
              (select max(at) from limit_changes l where l.account_id = a.account_id))
        """,
    ),
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
        "account-due",
        "An account is due when the first of its grants becomes effective, or expires with a part that nothing holds.",
        """
        select a.account_id, 'account' as row, 'due ' || coalesce(a.next_due_at::text, 'never') || ', its grants '
               || coalesce(g.due_at::text, 'never') as detail
        from accounts a left join (
            select account_id, min(case state when 'scheduled' then effective_at else expires_at end) as due_at
            from grants where state = 'scheduled' or state = 'active' and remaining > held
            group by account_id) g using (account_id)
        where a.next_due_at is distinct from g.due_at
        """,
    ),
    Check(
        "account-limit",
        "An account's credit limit is that of its last change, or 0; the changes are numbered from 1, in time.",
        """
        select a.account_id, 'account' as row, 'credit limit ' || a.credit_limit || ', last change to '
               || coalesce(l.credit_limit, 0) as detail
        from accounts a left join lateral (
            select credit_limit from limit_changes x where x.account_id = a.account_id order by n desc limit 1) l
            on true
        where a.credit_limit <> coalesce(l.credit_limit, 0)
        union all
        select account_id, 'limit change ' || n, 'to ' || credit_limit || ' at ' || at || ' after '
               || coalesce(before::text || ' at ' || before_at, 'none')
        from (select *, lag(n) over account as before, lag(at) over account as before_at
              from limit_changes window account as (partition by account_id order by n)) l
        where n <> coalesce(before, 0) + 1 or at < before_at or credit_limit < 0
        """,
    ),
    Check(
        "floor",
        "What is drawn on credit stays within the limit of its time, but for what was held before the limit was"
        " lowered or an adjustment went below the floor.",
        # Two things that are booked at one instant may have come in either order.
        f"""
        select o.account_id, 'entry ' || o.seq as row, 'a debt of ' || o.debt || ' where the limit is '
               || o.credit_limit as detail
        from (
            select p.*, greatest(
                (select l.credit_limit from limit_changes l where l.account_id = p.account_id and l.at < p.created_at
                 order by l.n desc limit 1),
                (select max(l.credit_limit) from limit_changes l
                 where l.account_id = p.account_id and l.at = p.created_at), 0) as credit_limit
            from (select e.*, c.amount as on_credit,
                         -sum(c.amount) over (partition by e.account_id order by e.seq) as debt
                  from entries e join postings c on c.account_id = e.account_id and c.entry_id = e.id
                  where c.ledger_account = 'credit') p
            where p.on_credit < 0 and not starts_with(p.natural_key, '{BELOW_FLOOR}:')) o
        where o.debt > o.credit_limit and not (o.kind = 'charge' and exists (
            select from hold_changes h
            where h.account_id = o.account_id and h.session_id = o.session_id and h.n = 1
              and (exists (select from entries x where x.account_id = o.account_id and x.seq < o.seq
                           and x.created_at >= h.at and starts_with(x.natural_key, '{BELOW_FLOOR}:'))
                or exists (select from limit_changes l left join limit_changes b
                           on b.account_id = l.account_id and b.n = l.n - 1
                           where l.account_id = o.account_id and l.at between h.at and o.created_at
                             and l.credit_limit < b.credit_limit))))
        """,  # noqa: S608 - a constant of ours
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
