"""What admins do to a session: decide a review, give back, rate again; and have it pulled or ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from sqlalchemy import select
from starlette.responses import RedirectResponse, Response

from app.core.access import Scope
from app.core.ids import AccountThing
from app.core.units import Instant, Micros, format_credits
from app.db.database import Database, Transaction
from app.db.tables import accounts
from app.ledger.book import LedgerPorts
from app.ports.clock import Clock
from app.sessions.records import Session, load_session
from app.sessions.routes import unknown_session
from app.settlement.corrections import Correcting, RefundDocument, RerateDocument, refund, rerate
from app.settlement.ending import Endings
from app.settlement.pull_now import pull_now
from app.settlement.reconciler import Reconciler
from app.settlement.reviews import ReviewAction, ReviewDocument, decide_review
from app.web.account_actions import REASON, account_state
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field
from app.web.forms import Kind as Typed
from app.web.rendering import grouped
from app.web.reviews import REVIEWS
from app.web.sessions import SESSION, SESSIONS, session_of
from app.web.site import Page, Visit

DECISIONS: Final = (
    (ReviewAction.SETTLE.value, "settle it as its evidence is rated"),
    (ReviewAction.WRITE_OFF.value, "write it off: nothing is charged"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """``goodwill``: how long a grant of goodwill lasts. ``rerate_window``: after settlement."""

    goodwill: Micros
    rerate_window: Micros


class _OfSession(Action[Any]):
    """An action on the session in its address."""

    scope: ClassVar[Scope] = Scope.CREDITS_WRITE
    nav: ClassVar[str] = "sessions"

    def __init__(self, ledger: LedgerPorts, terms: Terms) -> None:
        self._ledger = ledger
        self._terms = terms

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        session = await _known(transaction, session_of(visit))
        return Subject(
            account_id=session.account_id,
            name=f"session of {await _user(transaction, session)}",
            back=f"{SESSIONS}/{session.public_id}",
            key=session.id,
        )

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        session = await _known(transaction, _key(subject))
        charged = "nothing yet" if session.charged is None else grouped(format_credits(session.charged))
        own = [("State of the session", session.state.value, True), ("Charged at settlement", charged, True)]
        return [*own, *await account_state(transaction, await _user(transaction, session))]

    def _by(self, deed: Deed[Any]) -> Correcting:
        return Correcting(
            ledger=self._ledger,
            now=deed.now,
            cause=deed.cause,
            actor=deed.actor,
            goodwill=self._terms.goodwill,
            rerate_window=self._terms.rerate_window,
        )


class Decide(_OfSession):
    path = SESSION + "/review"
    name = "review"
    title = "Decide a review"
    verb = "Decide so"
    document = ReviewDocument
    nav = "reviews"
    fields = (Field(name="action", label="Decision", kind=Typed.CHOICE, required=True, choices=DECISIONS), REASON)

    def __init__(self, ledger: LedgerPorts, terms: Terms, reconciler: Reconciler) -> None:
        super().__init__(ledger, terms)
        self._reconciler = reconciler

    async def beforehand(self, subject: Subject, asked: ReviewDocument) -> None:
        if asked.action is ReviewAction.SETTLE:
            await self._reconciler.bring_up_to_date(_key(subject))

    async def do(self, transaction: Transaction, deed: Deed[ReviewDocument]) -> Outcome:
        await decide_review(transaction, _key(deed.subject), deed.asked, self._by(deed))
        return Outcome(back=REVIEWS)


class Refund(_OfSession):
    path = SESSION + "/refund"
    name = "refund"
    title = "Give back a charge"
    verb = "Give it back"
    document = RefundDocument
    fields = (
        Field(name="amount", label="Amount", kind=Typed.CREDITS, hint="All that is left of the charge if empty."),
        REASON,
    )

    async def do(self, transaction: Transaction, deed: Deed[RefundDocument]) -> Outcome:
        document = await refund(transaction, _key(deed.subject), deed.asked, self._by(deed))
        told = [("Given back", f"{grouped(document['amount'])} credits")]
        if document["goodwill_grant_id"] is not None:
            told.append(("Expired grants", "what comes back to them is a grant of goodwill"))
        return Outcome(told=[*told, ("Left of the charge", f"{grouped(document['left'])} credits")])


class Rerate(_OfSession):
    path = SESSION + "/rerate"
    name = "rerate"
    title = "Rate a session again"
    verb = "Post the difference"
    document = RerateDocument
    fields = (
        Field(name="rate_card", label="Rate card", hint="Name or id; that of the last rating if empty."),
        REASON,
    )

    async def do(self, transaction: Transaction, deed: Deed[RerateDocument]) -> Outcome:
        document = await rerate(transaction, _key(deed.subject), deed.asked, self._by(deed))
        told = [
            ("Before", f"{grouped(document['before'])} credits"),
            ("After", f"{grouped(document['after'])} credits"),
            ("Difference", f"{grouped(document['difference'])} credits"),
        ]
        if document["leakage"] != "0":
            told.append(("Not to be had", f"{grouped(document['leakage'])} credits"))
        return Outcome(told=told)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingPages:
    """What is asked of the provider cannot be tried first: these forms do what their buttons say."""

    database: Database
    ledger: LedgerPorts
    clock: Clock
    reconciler: Reconciler
    endings: Endings

    def pages(self) -> list[Page]:
        return [
            Page(SESSION + "/reconcile", self._reconcile, "POST", scope=Scope.SESSIONS_WRITE),
            Page(SESSION + "/end", self._end, "POST", scope=Scope.SESSIONS_WRITE),
        ]

    async def _reconcile(self, visit: Visit) -> Response:
        await visit.form()
        key = session_of(visit)
        session = await pull_now(self.database, self.reconciler, self.ledger.ids, self.clock, key, visit.actor)
        return RedirectResponse(f"{SESSIONS}/{session['id']}?done=reconcile", 303)

    async def _end(self, visit: Visit) -> Response:
        await visit.form()
        await self.endings.end(session_of(visit), None, visit.actor)
        return RedirectResponse(f"{SESSIONS}/{visit.part('session_id')}?done=end", 303)


def _key(subject: Subject) -> AccountThing:
    if subject.key is None:
        raise TypeError("a session has an id")
    return AccountThing(subject.account_id, subject.key)


async def _known(transaction: Transaction, key: AccountThing) -> Session:
    session = await load_session(transaction, key)
    if session is None:
        raise unknown_session()
    return session


async def _user(transaction: Transaction, session: Session) -> str:
    find = select(accounts.c.user_id).where(accounts.c.account_id == session.account_id)
    return str((await transaction.execute(find)).scalar_one())
