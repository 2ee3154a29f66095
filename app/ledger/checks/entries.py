"""Entries, their postings and their funding."""

from typing import Final

from app.ledger.checks.check import Check

ENTRIES: Final = (
    Check(
        "entry-postings",
        "The postings of each entry sum to 0, and there are some, but for a void that took nothing.",
        """
        select e.account_id, 'entry ' || e.seq as row,
               'its ' || count(p.leg) || ' postings sum to ' || coalesce(sum(p.amount), 0) as detail
        from entries e left join postings p on p.account_id = e.account_id and p.entry_id = e.id
        group by e.account_id, e.id, e.seq, e.kind, e.amount
        having sum(p.amount) <> 0
            or (case when e.kind = 'void' and e.amount = 0 then count(p.leg) <> 0 else count(p.leg) < 2 end)
        """,
    ),
    Check(
        "entry-amount",
        "An entry's amount is what its postings bring to the user's side: grants and credit.",
        """
        select e.account_id, 'entry ' || e.seq as row, 'amount ' || e.amount || ', the user''s side '
               || coalesce(p.amount, 0) as detail
        from entries e left join (
            select account_id, entry_id,
                   sum(amount) filter (where ledger_account = 'credit' or ledger_account like 'grants.%') as amount
            from postings group by account_id, entry_id) p on p.account_id = e.account_id and p.entry_id = e.id
        where coalesce(p.amount, 0) <> e.amount
        """,
    ),
    Check(
        "entry-kind",
        "The sign of an entry, what it names and its natural key are those of its kind.",
        """
        select account_id, 'entry ' || seq as row, 'a ' || kind || ' of ' || amount || ', ' || natural_key as detail
        from entries
        where case kind
            when 'grant' then amount > 0 and session_id is null and natural_key = 'grant:' || grant_id
            when 'charge' then amount < 0 and grant_id is null and natural_key = 'settle:' || session_id
            when 'expiry' then amount < 0
                 and (natural_key = 'expire:' || grant_id or starts_with(natural_key, 'expire:' || grant_id || ':'))
            when 'void' then amount <= 0 and natural_key = 'void:' || grant_id
                 or amount < 0 and starts_with(natural_key, 'void:' || grant_id || ':')
            when 'repayment' then amount = 0 and grant_id is null and starts_with(natural_key, 'repay:')
            when 'adjustment' then amount <> 0 and session_id is null and (grant_id is not null) = (amount > 0)
            when 'refund' then amount > 0 and session_id is not null and reverses is not null
            when 'rerate' then session_id is not null
                 and (amount > 0 and reverses is not null or amount < 0 and grant_id is null)
            end is not true
        """,
    ),
    Check(
        "entry-contra",
        "The system side of an entry is the one ledger account that its kind has.",
        """
        select e.account_id, 'entry ' || e.seq as row, 'a ' || e.kind || ' of ' || e.amount || ' posts ' || p.amount
               || ' to ' || p.ledger_account as detail
        from entries e join postings p on p.account_id = e.account_id and p.entry_id = e.id
             left join grants g on g.account_id = e.account_id and g.id = e.grant_id
        where p.ledger_account <> 'credit' and p.ledger_account not like 'grants.%'
          and (p.ledger_account, p.amount) is distinct from (
              case e.kind when 'grant' then 'issued.' || g.kind when 'expiry' then 'expired'
                          when 'void' then 'voided' when 'adjustment' then 'adjusted'
                          when 'charge' then 'consumed' when 'refund' then 'consumed'
                          when 'rerate' then 'consumed' end, -e.amount)
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
        "entry-funding",
        "What an entry posts to grants of each kind and to credit is what its grant and its funding say.",
        # Given back in an entry that opens a grant, an amount goes to that grant and not to where it came from.
        """
        select e.account_id, 'entry ' || e.seq as row, t.ledger_account || ': ' || sum(t.posted) || ' posted, '
               || sum(t.meant) || ' by its grant and funding' as detail
        from (
            select account_id, entry_id, ledger_account, amount as posted, 0 as meant
            from postings where ledger_account = 'credit' or ledger_account like 'grants.%'
            union all
            select x.account_id, x.id, 'grants.' || g.kind, 0, x.amount
            from entries x join grants g on g.account_id = x.account_id and g.id = x.grant_id
            union all
            select f.account_id, f.entry_id, coalesce('grants.' || g.kind, 'credit'), 0, -f.amount
            from funding f join entries x on x.account_id = f.account_id and x.id = f.entry_id
                 left join grants g on g.account_id = f.account_id and g.id = f.grant_id
            where f.amount > 0 or x.grant_id is null
            union all
            select account_id, entry_id, 'credit', 0, amount
            from funding where amount > 0 and debit_entry_id <> entry_id) t
        join entries e on e.account_id = t.account_id and e.id = t.entry_id
        group by e.account_id, e.id, e.seq, t.ledger_account
        having sum(t.posted) <> sum(t.meant)
        """,
    ),
    Check(
        "funding-line",
        "A line of funding draws for its own debit, repays an earlier one from a grant, or gives back of one.",
        """
        select e.account_id, 'entry ' || e.seq || ' funding ' || f.line as row, 'a ' || e.kind || ' of ' || e.amount
               || ', ' || f.amount || ' for ' || coalesce('entry ' || d.seq, 'an entry that is not there') as detail
        from funding f join entries e on e.account_id = f.account_id and e.id = f.entry_id
             left join entries d on d.account_id = f.account_id and d.id = f.debit_entry_id
        where case
            when f.debit_entry_id = f.entry_id then
                f.amount > 0 and e.amount < 0 and e.kind in ('charge', 'adjustment', 'rerate')
            when f.amount > 0 then f.grant_id is not null and d.seq < e.seq
                and (e.kind = 'repayment' or e.amount > 0 and f.grant_id = e.grant_id)
            else d.seq < e.seq and e.amount > 0 and e.kind in ('refund', 'rerate')
            end is not true
        """,
    ),
    Check(
        "debit-funding",
        "The funding of each debit sums to it; of no source more is given back than it paid, no debt repaid twice.",
        """
        select e.account_id, 'entry ' || e.seq as row, 'amount ' || e.amount || ', funded ' || coalesce(f.drawn, 0)
               || ', on credit ' || coalesce(f.credit, 0) || ', of that repaid ' || coalesce(f.repaid, 0)
               || ' and given back ' || coalesce(f.forgiven, 0) as detail
        from entries e left join (
            select account_id, debit_entry_id,
                   coalesce(sum(amount) filter (where entry_id = debit_entry_id), 0) as drawn,
                   coalesce(sum(amount) filter (where entry_id = debit_entry_id and grant_id is null), 0) as credit,
                   coalesce(sum(amount) filter (where entry_id <> debit_entry_id and amount > 0), 0) as repaid,
                   coalesce(-sum(amount) filter (where amount < 0 and grant_id is null), 0) as forgiven
            from funding group by account_id, debit_entry_id) f
            on f.account_id = e.account_id and f.debit_entry_id = e.id
        where coalesce(f.drawn, 0)
              <> case when e.kind in ('charge', 'adjustment', 'rerate') and e.amount < 0 then -e.amount else 0 end
           or f.repaid + f.forgiven > f.credit
        union all
        select e.account_id, 'entry ' || e.seq, 'grant ' || f.grant_id || ' paid ' || f.paid
               || ' of it and was given back ' || f.returned
        from (select account_id, debit_entry_id, grant_id, coalesce(sum(amount) filter (where amount > 0), 0) as paid,
                     -sum(amount) filter (where amount < 0) as returned
              from funding where grant_id is not null group by account_id, debit_entry_id, grant_id) f
        join entries e on e.account_id = f.account_id and e.id = f.debit_entry_id
        where f.returned > f.paid
        """,
    ),
    Check(
        "references",
        "What a row of the ledger names is there.",
        """
        select f.account_id, 'funding ' || f.entry_id || ' line ' || f.line as row,
               'names an entry, debit or grant that is not there' as detail
        from funding f
        where not exists (select from entries e where e.account_id = f.account_id and e.id = f.entry_id)
           or not exists (select from entries e where e.account_id = f.account_id and e.id = f.debit_entry_id)
           or f.grant_id is not null
              and not exists (select from grants g where g.account_id = f.account_id and g.id = f.grant_id)
        union all
        select p.account_id, 'posting ' || p.entry_id || ' leg ' || p.leg, 'names an entry that is not there'
        from postings p
        where not exists (select from entries e where e.account_id = p.account_id and e.id = p.entry_id)
        union all
        select e.account_id, 'entry ' || e.seq, 'names an account, session, grant or entry that is not there'
        from entries e
        where not exists (select from accounts a where a.account_id = e.account_id)
           or e.session_id is not null
              and not exists (select from sessions s where s.account_id = e.account_id and s.id = e.session_id)
           or e.grant_id is not null
              and not exists (select from grants g where g.account_id = e.account_id and g.id = e.grant_id)
           or e.reverses is not null and not exists (
              select from entries o where o.account_id = e.account_id and o.id = e.reverses and o.seq < e.seq)
        union all
        select c.account_id, 'charge ' || c.version || ' of ' || c.session_id,
               'names a session or entry that is not there'
        from charges c
        where not exists (select from sessions s where s.account_id = c.account_id and s.id = c.session_id)
           or c.entry_id is not null
              and not exists (select from entries e where e.account_id = c.account_id and e.id = c.entry_id)
        union all
        select account_id, what, 'belongs to an account that is not there'
        from (select account_id, 'grant ' || id as what from grants
              union all select account_id, 'session ' || id from sessions
              union all select account_id, 'limit change ' || n from limit_changes) t
        where not exists (select from accounts a where a.account_id = t.account_id)
        """,
    ),
)
