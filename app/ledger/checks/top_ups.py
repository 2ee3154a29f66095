"""Payments and recurring grants: what was granted for them, and what of it went back."""

from typing import Final

from app.core.corrections import BELOW_FLOOR
from app.ledger.checks.check import Check

TOP_UPS: Final = (
    Check(
        "payment-grant",
        "A payment that was granted names a grant of its user, of its credits, with its reference.",
        """
        select coalesce(p.user_account, p.account_id) as account_id, 'payment ' || p.id as row,
               p.state || ', ' || coalesce(p.credits::text, 'no') || ' credits as ' || p.reference || ', its grant: '
               || coalesce(g.amount || ' as ' || coalesce(g.reference, 'nothing'), 'none') as detail
        from payments p left join grants g on g.account_id = p.user_account and g.id = p.grant_id
        where p.grant_id is not null and (g.reference, g.amount) is distinct from (p.reference, p.credits)
        """,
    ),
    Check(
        "payment-taken",
        "What was taken of a payment's credits is what its adjustments took, one for each step.",
        f"""
        select coalesce(p.user_account, e.account_id, p.account_id) as account_id,
               'payment ' || coalesce(p.id::text, e.payment) as row,
               coalesce(p.taken, 0) || ' taken in ' || coalesce(p.moves, 0) || ' steps, entries of '
               || coalesce(e.taken, 0) || ' in ' || coalesce(e.moves, 0) as detail
        from payments p full join (
            select account_id, split_part(natural_key, ':', 3) as payment, -sum(amount) as taken, count(*) as moves
            from entries where kind = 'adjustment'
                 and (starts_with(natural_key, 'adjust:payment:')
                      or starts_with(natural_key, '{BELOW_FLOOR}:payment:'))
            group by 1, 2) e on e.account_id = p.user_account and e.payment = replace(p.id::text, '-', '')
        where (coalesce(p.taken, 0), coalesce(p.moves, 0)) is distinct from (coalesce(e.taken, 0), coalesce(e.moves, 0))
        """,  # noqa: S608 - a constant of ours
    ),
    Check(
        "recurring-period",
        "Of each recurring grant every period before the next was given once or skipped; what one gave is a grant of"
        " that amount, effective when it began, with its natural key.",
        """
        select p.account_id, 'recurring grant ' || p.recurring_id || ', period ' || p.n as row,
               p.amount || ' given, its grant: ' || coalesce(g.amount || ' as ' || g.reference, 'none') as detail
        from recurring_periods p
        join recurring_grants r on r.account_id = p.account_id and r.id = p.recurring_id
        left join grants g on g.account_id = p.account_id and g.id = p.grant_id
        where p.n >= r.next_n or p.amount > r.amount
           or p.grant_id is not null and (g.reference, g.amount, g.effective_at) is distinct from
              ('recurring:' || replace(p.recurring_id::text, '-', '') || ':' || p.n, p.amount, p.starts_at)
        union all
        select r.account_id, 'recurring grant ' || r.id, r.next_n || ' periods passed, ' || r.skipped || ' skipped, '
               || count(p.n) || ' given'
        from recurring_grants r left join recurring_periods p on p.account_id = r.account_id and p.recurring_id = r.id
        group by r.account_id, r.id, r.next_n, r.skipped
        having r.next_n <> r.skipped + count(p.n)
        union all
        select g.account_id, 'grant ' || g.id, 'as ' || g.reference || ', which no period gave'
        from grants g join recurring_grants r
             on r.account_id = g.account_id
            and starts_with(g.reference, 'recurring:' || replace(r.id::text, '-', '') || ':')
        left join recurring_periods p
             on p.account_id = r.account_id and p.recurring_id = r.id and p.grant_id = g.id
        where p.n is null
        """,
    ),
)
