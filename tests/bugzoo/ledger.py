"""Bugs in grants, holds, debts, corrections and the chain."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

_HISTORIES: Final = Run(Layer.STATEFUL, seed=1, amount=40)

BUGS: Final = (
    Bug(
        name="burn-order-endless-first",
        does="grants that never expire burn before those that do",
        patches=(
            Patch(
                "app.core.ledger",
                "            _NEVER if grant.expires_at is None else grant.expires_at,\n",
                "            grant.expires_at or Instant(0),\n",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="burn-order-paid-first",
        does="of two grants that expire together the paid one burns before the promotional one",
        patches=(
            Patch(
                "app.core.ledger",
                "            grant.kind is GrantKind.PAID,\n",
                "            grant.kind is GrantKind.PROMOTIONAL,\n",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="lowered-hold-keeps-credit",
        does="lowering a hold frees its first lines and keeps the credit line",
        patches=(
            Patch("app.core.ledger", "    for line in reversed(lines):\n", "    for line in lines:\n"),
            Patch("app.core.ledger", "    return lowered[::-1]\n", "    return lowered\n"),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="hold-raised",
        does="a hold follows what the charge can still become upwards as well",
        patches=(
            Patch(
                "app.core.account",
                """\
        if hold is None or hold.state != "active" or hold.amount <= target:
            return
""",
                """\
        if hold is None or hold.state != "active" or hold.amount == target:
            return
        if hold.amount < target:
            more = allocate(MicroCredits(target - hold.amount), self.grants.values())
            self._set_lines(session_id, hold, (*hold.lines, *more), "lower", "active")
            return
""",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="hold-released-twice",
        does="settling frees what the session held, and frees it again once the debit is posted",
        patches=(
            Patch(
                "app.core.account",
                """\
                CONSUMED,
            )
        self._follow_up(session_id, hold.lines)
        return drawn
""",
                """\
                CONSUMED,
            )
        if hold.state == "active":
            self._set_lines(session_id, hold, _emptied(hold.lines), "release", "released")
        self._follow_up(session_id, hold.lines)
        return drawn
""",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="resolved-hold-released-again",
        does="a hold that is settled already can still be released, which changes how it ended",
        patches=(
            Patch(
                "app.core.account",
                """\
        if hold is None or hold.state != "active":
            return
        self._set_lines(session_id, hold, _emptied(hold.lines), "release", "released")
""",
                """\
        if hold is None:
            return
        self._set_lines(session_id, hold, _emptied(hold.lines), "release", "released")
""",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="expiry-takes-held",
        does="expiry takes credits that running sessions hold",
        patches=(
            Patch(
                "app.core.account",
                """\
        unheld = grant.unheld
        self.grants[grant_id] = replace(grant, state=GrantState.EXPIRED)
""",
                """\
        unheld = grant.remaining
        self.grants[grant_id] = replace(grant, state=GrantState.EXPIRED)
""",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="freed-of-expired-kept",
        does="what a hold frees of a grant that expired meanwhile stays with the grant",
        patches=(
            Patch(
                "app.core.account",
                "            if grant is not None and grant.closed and grant.remaining > grant.held:\n",
                "            if grant is not None and grant.state is GrantState.VOIDED"
                " and grant.remaining > grant.held:\n",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="debt-repaid-twice",
        does="a debt that one grant has repaid is repaid again by the next one that comes with it",
        patches=(
            Patch(
                "app.core.account",
                """\
        left = [
            Debt(
                owed.debit_entry_id,
                MicroCredits(owed.amount - (amount if owed.debit_entry_id == debit_entry_id else 0)),
            )
            for owed in self._debts
        ]
        self._debts = [owed for owed in left if owed.amount]
""",
                "",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="credit-reserved-forgotten",
        does="a debit by hand may use up the credit that running sessions hold",
        patches=(
            Patch(
                "app.core.account",
                "        return MicroCredits(self.credit_limit - self.debt - self._credit_reserved)\n",
                "        return MicroCredits(self.credit_limit - self.debt)\n",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="refund-in-burn-order",
        does="a refund goes back to the grant that burned first instead of the one that burned last",
        patches=(Patch("app.core.corrections", "    for line in reversed(lines):\n", "    for line in lines:\n"),),
        found_by=_HISTORIES,
    ),
    Bug(
        name="refund-beyond-the-charge",
        does="what a lower rating gave back does not count when the rest is refunded",
        patches=(
            Patch(
                "app.ledger.rows",
                "    .order_by(entries.c.seq, funding.c.line)\n)\n_HOLD: Final",
                """\
    .where((funding.c.amount > 0) | (entries.c.kind == EntryKind.REFUND.value))
    .order_by(entries.c.seq, funding.c.line)
)
_HOLD: Final""",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="expired-grant-revived",
        does="a refund goes back to a spent grant whose expiry has passed, as nobody marked it expired",
        patches=(
            Patch(
                "app.core.corrections",
                """\
    past = grant.expires_at is not None and grant.expires_at <= now
    return grant.state is GrantState.EXPIRED or (past and grant.state is not GrantState.VOIDED)
""",
                "    return grant.state is GrantState.EXPIRED\n",
            ),
        ),
        found_by=_HISTORIES,
    ),
    Bug(
        name="random-operation-key",
        does="a charge's entry has a natural key made of a new id, not of its session",
        patches=(
            Patch(
                "app.settlement.charges",
                "    drawn = book.account.settle(session.id, wanted, evidence_digest(stored))\n",
                "    operation = uuid4()\n"
                "    drawn = book.account.settle(session.id, wanted, evidence_digest(stored), operation)\n",
            ),
            Patch(
                "app.settlement.charges",
                '    natural_key = f"settle:{session.id}"\n',
                '    natural_key = f"settle:{operation}"\n',
            ),
            Patch("app.settlement.charges", "from uuid import UUID\n", "from uuid import UUID, uuid4\n"),
            Patch(
                "app.core.account",
                "    def settle(self, session_id: UUID, amount: MicroCredits, charge_digest: bytes) -> Draw:\n",
                """\
    def settle(
        self, session_id: UUID, amount: MicroCredits, charge_digest: bytes, operation: UUID | None = None
    ) -> Draw:
""",
            ),
            Patch(
                "app.core.account",
                '                    natural_key=f"settle:{session_id}",\n',
                '                    natural_key=f"settle:{operation or session_id}",\n',
            ),
        ),
        found_by=Run(Layer.CUTS, only=("reconcile: settle",)),
    ),
    Bug(
        name="no-row-lock",
        does="an account is read without a lock, worked out and written back",
        patches=(
            Patch(
                "app.ledger.opening",
                'select(accounts).where(accounts.c.account_id == bindparam("mine")).with_for_update()\n',
                'select(accounts).where(accounts.c.account_id == bindparam("mine"))\n',
            ),
        ),
        found_by=Run(Layer.TURNSTILE, only=("void/start",)),
    ),
    Bug(
        name="alert-without-hysteresis",
        does="an alert is armed again as soon as the balance is back at its threshold",
        patches=(
            Patch(
                "app.core.alerts",
                "    return balance < threshold if armed else balance * down < threshold * up\n",
                "    return balance < threshold\n",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_alerts_and_spending.py",)),
    ),
    Bug(
        name="mac-without-the-postings",
        does="an entry's MAC does not cover between which ledger accounts its amount moved",
        patches=(
            Patch(
                "app.core.chain",
                '        "postings": [[posting.ledger_account, posting.amount] for posting in entry.postings],\n',
                '        "postings": [posting.amount for posting in entry.postings],\n',
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_chain.py",)),
    ),
    Bug(
        name="mac-without-the-one-before",
        does="an entry's MAC does not cover the MAC before it, so the chain is none",
        patches=(
            Patch(
                "app.core.chain",
                '        "previous": None if previous is None else previous.hex(),\n',
                '        "previous": None,\n',
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_chain.py",)),
    ),
    Bug(
        name="spend-limit-counts-settled-only",
        does="what running sessions may still cost does not count against a limit on spending",
        patches=(
            Patch(
                "app.core.spending",
                "        return MicroCredits(max(0, self.limit - self.charged - self.held))\n",
                "        return MicroCredits(max(0, self.limit - self.charged))\n",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_alerts_and_spending.py",)),
    ),
    Bug(
        name="booking-time-runs-back",
        does="an entry is booked at the clock's time even if that was set back",
        patches=(
            Patch(
                "app.ledger.book",
                "        self.booked_at = now if row.last_change_at is None else max(now, row.last_change_at)\n",
                "        self.booked_at = now\n",
            ),
        ),
        found_by=_HISTORIES,
    ),
)
