"""Grants: what opened them, what became of them, and whether it is they that were given."""

from typing import Final

from app.ledger.checks.check import Check

GRANTS: Final = (
    Check(
        "grant-entry",
        "A grant is opened by one entry of its amount once it is effective; before, and if voided before, it has none.",
        """
        select g.account_id, 'grant ' || g.id as row, g.state || ', amount ' || g.amount || ', opened by '
               || count(e.id) filter (where e.amount > 0) || ' entries of '
               || coalesce(sum(e.amount) filter (where e.amount > 0), 0) as detail
        from grants g left join entries e on e.account_id = g.account_id and e.grant_id = g.id
        group by g.account_id, g.id, g.state, g.amount, g.effective_at
        having count(e.id) filter (where e.amount > 0)
               <> (case when g.state = 'scheduled' or g.state = 'voided' and min(e.amount) = 0 and max(e.amount) = 0
                   then 0 else 1 end)
            or sum(e.amount) filter (where e.amount > 0) <> g.amount
            or min(e.created_at) filter (where e.kind = 'grant') < g.effective_at
        """,
    ),
    Check(
        "grant-spent",
        "What was given, and given back, is what remains, what was spent, what expired and what was voided.",
        """
        select g.account_id, 'grant ' || g.id as row, 'amount ' || g.amount || ', remaining ' || g.remaining
               || ', spent ' || coalesce(f.spent, 0) || ', expired or voided ' || coalesce(e.taken, 0) as detail
        from grants g
        left join (select l.account_id, l.grant_id, sum(l.amount) as spent
                   from funding l join entries x on x.account_id = l.account_id and x.id = l.entry_id
                   where l.amount > 0 or x.grant_id is null
                   group by l.account_id, l.grant_id) f on f.account_id = g.account_id and f.grant_id = g.id
        left join (select account_id, grant_id, -sum(amount) filter (where amount < 0) as taken,
                          bool_or(amount > 0) as opened
                   from entries where grant_id is not null
                   group by account_id, grant_id) e on e.account_id = g.account_id and e.grant_id = g.id
        where g.remaining + coalesce(f.spent, 0) + coalesce(e.taken, 0)
              <> case when g.state = 'voided' and not coalesce(e.opened, false) then 0 else g.amount end
        """,
    ),
    Check(
        "grant-state",
        "What was taken of a grant was taken as its state says; an entry says of each voided grant that it was voided;"
        " nothing expires before its time.",
        # What a hold frees of an expired grant goes later, by a clock that may have been set back meanwhile.
        """
        select g.account_id, 'grant ' || g.id as row, g.state || ', expires '
               || coalesce(g.expires_at::text, 'never') || ', but entry ' || e.seq || ' is its ' || e.kind as detail
        from grants g join entries e on e.account_id = g.account_id and e.grant_id = g.id
        where e.kind = 'expiry' and (g.state <> 'expired' or g.expires_at is null
               or e.natural_key = 'expire:' || g.id and e.created_at < g.expires_at)
           or e.kind = 'void' and g.state <> 'voided'
        union all
        select g.account_id, 'grant ' || g.id, 'voided, but no entry says so'
        from grants g left join entries e on e.account_id = g.account_id and e.natural_key = 'void:' || g.id
        where g.state = 'voided' and e.id is null
        union all
        select account_id, 'grant ' || id, 'expired, but it never expires' from grants
        where state = 'expired' and expires_at is null
        """,
    ),
    Check(
        "grant-signed",
        "The terms of a grant are signed when it is made; only an entry older than such signatures opened one without.",
        """
        select g.account_id, 'grant ' || g.id as row, g.state || ', its terms are not signed' as detail
        from grants g left join entries e on e.account_id = g.account_id and e.grant_id = g.id and e.amount > 0
        where g.terms_mac is null
          and (e.id is null or e.kind <> 'grant'
               or e.created_at >= (select min(created_at) from grants where terms_mac is not null))
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
)
