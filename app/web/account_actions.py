"""What admins do to a user's account: grants, adjustments, voids, limits, alerts, tokens."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from sqlalchemy import select

from app.access.user_tokens import UserTokenDocument, UserTokens, issue_portal_link, issue_token
from app.accounts.corrections import AdjustmentDocument, VoidDocument, adjust, unknown_grant, void_grant
from app.accounts.grants import GrantDocument, give
from app.accounts.limits import UserChangesDocument, change_user, find_user, settings_document
from app.core.access import Scope
from app.core.ids import AccountThing, Kind, account_id_of, parse_public_id
from app.core.ledger import GrantKind
from app.core.units import Instant, MicroCredits, Micros, format_credits
from app.db.database import Transaction
from app.db.tables import accounts, grants
from app.documents import Reason
from app.http.bodies import checked_user_id
from app.ledger.book import LedgerPorts
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field, flat
from app.web.forms import Kind as Typed
from app.web.rendering import grouped, span
from app.web.site import ADMIN, Visit
from app.web.users import USER, user_address

REASON: Final = Field(
    name="reason",
    label="Reason",
    kind=Typed.LONG_TEXT,
    required=True,
    hint="Why; it is kept for ever in the audit log.",
)
KINDS: Final = tuple((kind.value, kind.value) for kind in GrantKind)


async def account_state(transaction: Transaction, user_id: str) -> Sequence[tuple[str, str, bool]]:
    """What an account has, in the transaction that may change it; zeros for a user never seen."""
    find = select(accounts).where(accounts.c.account_id == account_id_of(user_id))
    row = (await transaction.execute(find)).one_or_none()
    balance, held, limit = (0, 0, 0) if row is None else (row.balance, row.held, row.credit_limit)
    amounts = {"Balance": balance, "Held by sessions": held, "Available": balance + limit - held}
    return [
        (label, grouped(format_credits(MicroCredits(amount))), label == "Balance") for label, amount in amounts.items()
    ]


class _OfUser(Action[Any]):
    """An action on the account of the user in its address."""

    scope: ClassVar[Scope] = Scope.CREDITS_WRITE

    def __init__(self, ledger: LedgerPorts) -> None:
        self._ledger = ledger

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        user_id = checked_user_id(visit.part("user_id"))
        return Subject(account_id=account_id_of(user_id), name=user_id, back=user_address(user_id))

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        return await account_state(transaction, subject.name)


class GrantWithReason(GrantDocument):
    reason: Reason


class Grant(_OfUser):
    path = USER + "/grant"
    name = "grant"
    title = "Grant credits"
    verb = "Grant them"
    document = GrantWithReason
    fields = (
        Field(name="amount", label="Amount", kind=Typed.CREDITS, required=True, hint="Credits, such as 100 or 12.5."),
        Field(name="kind", label="Kind", kind=Typed.CHOICE, choices=KINDS, default=GrantKind.PAID.value),
        Field(name="expires_at", label="Expires at", kind=Typed.MOMENT, hint="UTC; never if empty."),
        Field(name="effective_at", label="Counts from", kind=Typed.MOMENT, hint="UTC; at once if empty."),
        Field(name="reference", label="Reference", hint="Your own id, such as an invoice's. The same one grants once."),
        Field(name="cost_basis", label="Money per credit", kind=Typed.CREDITS, hint="For your books."),
        Field(name="priority", label="Priority", kind=Typed.NUMBER, hint="0 to 100; lower is used first; 50 if empty."),
        REASON,
    )

    async def do(self, transaction: Transaction, deed: Deed[GrantWithReason]) -> Outcome:
        document, new = await give(transaction, self._ledger, deed.subject.name, deed.asked, deed.now, deed.actor)
        told = [("State", document["state"])]
        if not new:
            told.append(("This reference", "was used for this grant before: no more is given"))
        return Outcome(told=told)


class Adjust(_OfUser):
    path = USER + "/adjust"
    name = "adjust"
    title = "Adjust the balance"
    verb = "Adjust it"
    document = AdjustmentDocument
    fields = (
        Field(
            name="amount",
            label="Amount",
            kind=Typed.CREDITS,
            required=True,
            hint="With a minus to take credits away, from what no session holds.",
        ),
        Field(
            name="kind",
            label="Kind of what is given",
            kind=Typed.CHOICE,
            choices=(("", "promotional, or none where credits are taken"), *KINDS),
        ),
        Field(
            name="allow_below_floor",
            label="Take it although it is not there; the rest is debt (after a chargeback)",
            kind=Typed.FLAG,
        ),
        REASON,
    )

    async def do(self, transaction: Transaction, deed: Deed[AdjustmentDocument]) -> Outcome:
        entry = await adjust(
            transaction,
            self._ledger,
            deed.subject.name,
            deed.asked,
            now=deed.now,
            cause=deed.cause,
            actor=deed.actor,
        )
        return Outcome(told=[("Entry", f"{entry['kind']}, {grouped(entry['amount'])} credits")])


class Void(Action[VoidDocument]):
    path = ADMIN + "/grants/{grant_id}/void"
    name = "void"
    title = "Void a grant"
    verb = "Take back what is left"
    lead = "Takes back what is left of the grant and held by no session."
    scope = Scope.CREDITS_WRITE
    document = VoidDocument
    dangerous = True
    fields = (REASON,)

    def __init__(self, ledger: LedgerPorts) -> None:
        self._ledger = ledger

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        key = parse_public_id(Kind.GRANT, visit.part("grant_id"))
        find = select(accounts.c.user_id).where(accounts.c.account_id == (key.account_id if key else None))
        user_id = (await transaction.execute(find)).scalar_one_or_none()
        if key is None or user_id is None or not await _is_there(transaction, key):
            raise unknown_grant()
        return Subject(account_id=key.account_id, name=user_id, back=user_address(user_id), key=key.id)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        find = select(grants).where(grants.c.account_id == subject.account_id, grants.c.id == subject.key)
        grant = (await transaction.execute(find)).one()
        left = grouped(format_credits(grant.remaining))
        own = [("State of the grant", grant.state, True), ("Left of the grant", left, False)]
        return [*own, *await account_state(transaction, subject.name)]

    async def do(self, transaction: Transaction, deed: Deed[VoidDocument]) -> Outcome:
        if deed.subject.key is None:
            raise TypeError("a grant has an id")
        key = AccountThing(deed.subject.account_id, deed.subject.key)
        document = await void_grant(transaction, self._ledger, key, deed.asked, deed.now, deed.actor)
        return Outcome(told=[("Taken back", f"{grouped(document['voided'])} credits")])


async def _is_there(transaction: Transaction, key: AccountThing) -> bool:
    find = select(grants.c.id).where(grants.c.account_id == key.account_id, grants.c.id == key.id)
    return (await transaction.execute(find)).one_or_none() is not None


class LimitsDocument(UserChangesDocument):
    reason: Reason


class Limits(_OfUser):
    """Credit limit, prices, limits on sessions and spending, suspension."""

    path = USER + "/limits"
    name = "limits"
    title = "Limits and prices"
    verb = "Change them"
    document: type[UserChangesDocument] = LimitsDocument
    fields: Sequence[Field] = (
        Field(
            name="credit_limit",
            label="Credit limit",
            kind=Typed.CREDITS,
            required=True,
            hint="How far the user may go into debt.",
        ),
        Field(name="rate_card", label="Rate card", clears=True, hint="Name or id; the usual choice if empty."),
        Field(
            name="default_time_limit_s",
            label="Time limit of a session, in seconds",
            kind=Typed.NUMBER,
            clears=True,
            hint="Of starts that name none; the longest there is if empty.",
        ),
        Field(
            name="max_concurrent_sessions",
            label="Sessions at once",
            kind=Typed.NUMBER,
            clears=True,
            hint="Any number if empty.",
        ),
        Field(name="spend_limits.day", label="Most a day", kind=Typed.CREDITS, clears=True, hint="By UTC days."),
        Field(name="spend_limits.month", label="Most a month", kind=Typed.CREDITS, clears=True),
        Field(name="suspended", label="Suspended: no session starts; those that run go on", kind=Typed.FLAG),
        REASON,
    )
    labels: ClassVar[dict[str, str]] = {
        "credit_limit": "Credit limit",
        "rate_card": "Rate card",
        "default_time_limit_s": "Time limit of a session",
        "max_concurrent_sessions": "Sessions at once",
        "spend_limits.day": "Most a day",
        "spend_limits.month": "Most a month",
        "suspended": "Suspended",
    }

    def __init__(self, ledger: LedgerPorts, shortest: Micros) -> None:
        super().__init__(ledger)
        self._shortest = shortest

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        user_id = checked_user_id(visit.part("user_id"))
        values = flat(await find_user(transaction, user_id))
        given = {name: _typed(values[name]) for name in self.labels if values.get(name) not in {None, False}}
        return Subject(account_id=account_id_of(user_id), name=user_id, back=user_address(user_id), given=given)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        find = select(accounts).where(accounts.c.account_id == subject.account_id)
        values = flat(settings_document((await transaction.execute(find)).one()._asdict()))
        return [(label, _shown(name, values.get(name)), True) for name, label in self.labels.items()]

    async def do(self, transaction: Transaction, deed: Deed[UserChangesDocument]) -> Outcome:
        await change_user(
            transaction,
            self._ledger,
            deed.subject.name,
            deed.asked,
            now=deed.now,
            shortest=self._shortest,
            actor=deed.actor,
        )
        return Outcome()


class Alerts(Limits):
    """From which balance on the user is told to be low."""

    path = USER + "/alerts"
    name = "alerts"
    title = "Alert thresholds"
    document = LimitsDocument
    fields = (
        Field(
            name="alerts.low_credits",
            label="Low below so many credits",
            kind=Typed.CREDITS,
            clears=True,
            hint="Credits or talk time, not both; no alert if both are empty.",
        ),
        Field(
            name="alerts.low_talk_time_s",
            label="Low below so much talk time, in seconds",
            kind=Typed.NUMBER,
            clears=True,
            hint="At the user's own prices.",
        ),
        REASON,
    )
    labels: ClassVar[dict[str, str]] = {
        "alerts.low_credits": "Low below so many credits",
        "alerts.low_talk_time_s": "Low below so much talk time",
    }


def _typed(value: Any) -> str:
    return "yes" if value is True else f"{value:f}" if hasattr(value, "is_finite") else str(value)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_s"):
        return span(value)
    return str(value)


class TokenDocument(UserTokenDocument):
    reason: Reason


class Token(_OfUser):
    path = USER + "/token"
    name = "token"
    title = "Token for the user's own front end"
    verb = "Make the token"
    scope = Scope.SESSIONS_WRITE
    document = TokenDocument
    fields = (
        Field(
            name="ttl_s",
            label="Lasts, in seconds",
            kind=Typed.NUMBER,
            required=True,
            default="3600",
            hint="10 seconds to a day. It cannot be revoked: it expires.",
        ),
        REASON,
    )

    def __init__(self, ledger: LedgerPorts, tokens: UserTokens) -> None:
        super().__init__(ledger)
        self._tokens = tokens

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        return ()

    async def do(self, transaction: Transaction, deed: Deed[TokenDocument]) -> Outcome:
        _, token = await issue_token(
            transaction,
            self._ledger.ids,
            self._tokens,
            deed.subject.name,
            deed.asked,
            now=deed.now,
            actor=deed.actor,
        )
        told = [("It can", "start sessions as this user, and read the user's own things")]
        return Outcome(told=told, secrets={"Token": token})


class PortalLink(Token):
    path = USER + "/portal-link"
    name = "portal-link"
    title = "Link to the user's portal"
    verb = "Make the link"

    def __init__(self, ledger: LedgerPorts, tokens: UserTokens, public_url: str) -> None:
        super().__init__(ledger, tokens)
        self._public_url = public_url

    async def do(self, transaction: Transaction, deed: Deed[TokenDocument]) -> Outcome:
        _, url = await issue_portal_link(
            transaction,
            self._ledger.ids,
            self._tokens,
            deed.subject.name,
            deed.asked,
            public_url=self._public_url,
            now=deed.now,
            actor=deed.actor,
        )
        return Outcome(told=[("It opens", "the user's portal, where nothing can be changed")], secrets={"Link": url})
