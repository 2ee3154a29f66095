"""Bugs in what becomes of payments, recurring grants and files of grants."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

BUGS: Final = (
    Bug(
        name="signature-of-any-age",
        does="an event that somebody has recorded is believed for ever",
        patches=(
            Patch(
                "app.core.signed_events",
                "return None if abs(now - int(times[0]) * US_PER_S) <= TOLERANCE else Unsigned.STALE",
                "return None",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_signed_events.py",)),
    ),
    Bug(
        name="refunds-added-up",
        does="what was refunded in all is taken for what was refunded now",
        patches=(
            Patch(
                "app.core.payments",
                "refunded=max(self.refunded, other.refunded),",
                "refunded=self.refunded + other.refunded,",
            ),
        ),
        found_by=Run(Layer.PROPERTY, only=("test_payment_properties.py",)),
    ),
    Bug(
        name="last-word-in-a-dispute",
        does="of a dispute the event that came last counts, not the one that was sent last",
        patches=(
            Patch(
                "app.core.payments",
                "disputes[name] = max(told, disputes[name]) if name in disputes else told",
                "disputes[name] = told",
            ),
        ),
        found_by=Run(Layer.PROPERTY, only=("test_payment_properties.py",)),
    ),
    Bug(
        name="voided-and-taken",
        does="what was voided by hand before a refund is taken a second time",
        patches=(Patch("app.core.payments", "max(0, owed - taken - lost)", "max(0, owed - taken)"),),
        found_by=Run(Layer.PROPERTY, only=("test_payment_properties.py",)),
    ),
    Bug(
        name="payment-read-unlocked",
        does="two events of one payment are merged into what was known before either",
        patches=(
            Patch(
                "app.payments.rows",
                'select(payments).where(_MINE, payments.c.id == bindparam("of")).with_for_update()',
                'select(payments).where(_MINE, payments.c.id == bindparam("of"))',
            ),
        ),
        found_by=Run(Layer.TURNSTILE, only=("refund/paid-again",)),
    ),
    Bug(
        name="refund-before-its-checkout-forgotten",
        does="a refund is dropped that comes before its checkout",
        patches=(
            Patch(
                "app.payments.receive",
                "known = payment.known.merge(event.known)",
                "known = payment.known.merge(event.known) if event.known.paid or payment.grant_id else payment.known",
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION, only=("test_stripe.py::test_a_refund_that_comes_first_waits_for_its_checkout",)
        ),
    ),
    Bug(
        name="refund-through-the-burn-order",
        does="what a refund takes comes from whatever burns first, and not from its own grant",
        patches=(Patch("app.core.corrections", "account.drawn_first(grant_id, amount)", "account.drawn_now(amount)"),),
        found_by=Run(Layer.INTEGRATION, only=("test_stripe.py::test_its_own_grant_is_taken_from_before_any_other",)),
    ),
    Bug(
        name="acknowledged-whatever-came-of-it",
        does="an event of Stripe is answered 200 although the database could not be reached",
        patches=(
            Patch(
                "app.payments.routes",
                """\
        async with database.transaction() as transaction:
            await receive(transaction, ledger, event, now, actor)
""",
                """\
        try:
            async with database.transaction() as transaction:
                await receive(transaction, ledger, event, now, actor)
        except DatabaseUnavailable:
            log.warning("stripe.database_unavailable")
""",
            ),
            Patch(
                "app.payments.routes",
                "from app.db.database import Database, Transaction",
                "from app.db.database import Database, DatabaseUnavailable, Transaction",
            ),
        ),
        found_by=Run(Layer.SIM, seed=49),
    ),
    Bug(
        name="odd-payment-passed-over",
        does="what is signed and cannot be read is answered 200 and forgotten",
        patches=(
            Patch(
                "app.payments.stripe",
                "return _of(event, _named(thing) or event.id, attention=Attention.ODD_EVENT)",
                "return event",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_stripe.py::test_what_cannot_be_granted_is_kept_for_a_person",)),
    ),
    Bug(
        name="short-month-moves-all",
        does="a recurring grant of the 31st comes on the 28th from the first February on",
        patches=(
            Patch(
                "app.core.recurrence",
                "day = min(first.day, monthrange(year, month + 1)[1])",
                "day = min(first.day, 28 if n > 1 else monthrange(year, month + 1)[1])",
            ),
        ),
        found_by=Run(Layer.PROPERTY, only=("test_recurrence_properties.py",)),
    ),
    Bug(
        name="missed-periods-skipped",
        does="after an outage a recurring grant goes on with the period of now",
        patches=(
            Patch(
                "app.accounts.recurring",
                "            n = series.next_n\n",
                "            n = max(series.next_n, first_from(series.starts_at, series.period, now) - 1)\n",
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION,
            only=("test_recurring.py::test_what_was_missed_is_given_in_order_as_of_its_time",),
        ),
    ),
    Bug(
        name="dry-run-for-good",
        does="a dry run of a file grants what is in it",
        patches=(
            Patch(
                "app.accounts.bulk",
                "begun = database.rehearsal() if dry_run else database.transaction()",
                "begun = database.transaction()",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_bulk.py::test_a_dry_run_tells_the_same_and_changes_nothing",)),
    ),
)
