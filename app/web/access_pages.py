"""Who may come in, and who did what: API keys, admins, the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from starlette.responses import Response

from app.access.admins import (
    Passwords,
    admin_by_name,
    all_admins,
    change_admin,
    change_password,
    create_admin,
    unknown_admin,
)
from app.access.audit_log import audit_page
from app.access.keys import NewKeyDocument, create_key, key_by_id, keys_page, revoke_key, unknown_key
from app.core.access import Role, Scope
from app.core.ids import NIL_ACCOUNT, Kind, base32, parse_reference_id
from app.core.units import Instant
from app.db.database import Database, Transaction
from app.documents import Document, Flag, PlainString, Text
from app.errors import Problem
from app.http.bodies import instant_parameter
from app.http.pages import DEFAULT_LIMIT
from app.ports.ids import Ids
from app.ports.randomness import Randomness
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field, as_moment
from app.web.forms import Kind as Typed
from app.web.site import ADMIN, Page, Visit

KEYS: Final = ADMIN + "/api-keys"
ADMINS: Final = ADMIN + "/admins"
AUDIT: Final = ADMIN + "/audit-log"
PASSWORD_BYTES: Final = 15
"""Random bytes of a password that is made here: 24 letters and digits."""

FILTERS: Final = ("user_id", "actor", "action", "target", "request_id", "after", "before")
SCOPES: Final = (
    (Scope.READ, "read: look at everything but keys and the audit log"),
    (Scope.SESSIONS_WRITE, "sessions:write: start and end sessions, tokens"),
    (Scope.CREDITS_WRITE, "credits:write: grants, corrections, limits"),
    (Scope.PRICING_WRITE, "pricing:write: rate cards"),
    (Scope.ADMIN, "admin: all of it, and keys"),
)
ROLES: Final = ((Role.READ_ONLY.value, "read-only: may look"), (Role.FULL.value, "full: may change things"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPages:
    database: Database

    def pages(self) -> list[Page]:
        return [Page(KEYS, self._keys), Page(ADMINS, self._admins), Page(AUDIT, self._audit)]

    async def _keys(self, visit: Visit) -> Response:
        cursor = visit.asked("cursor") or None
        async with self.database.reading() as transaction:
            found = await keys_page(transaction, limit=DEFAULT_LIMIT, cursor=cursor)
        return visit.page("api_keys.html", nav="system", found=found, first=cursor is None)

    async def _admins(self, visit: Visit) -> Response:
        async with self.database.reading() as transaction:
            found = [admin.document for admin in await all_admins(transaction)]
        return visit.page("admins.html", nav="system", found=found)

    async def _audit(self, visit: Visit) -> Response:
        asked = {name: visit.asked(name) for name in FILTERS}
        cursor = visit.asked("cursor") or None
        found: dict[str, Any] = {"data": [], "next_cursor": None}
        problem: Problem | None = None
        try:
            wanted: dict[str, Any] = {name: asked[name] or None for name in FILTERS[:5]}
            wanted |= {name: instant_parameter(name, as_moment(asked[name])) for name in FILTERS[5:]}
            async with self.database.reading() as transaction:
                found = await audit_page(transaction, limit=DEFAULT_LIMIT, cursor=cursor, **wanted)
        except Problem as refused:
            problem = refused
        return visit.page(
            "audit_log.html",
            200 if problem is None else problem.status,
            nav="system",
            found=found,
            asked=asked,
            given={name: value for name, value in asked.items() if value},
            problem=problem,
            first=cursor is None,
        )


class _OfNobody(Action[Any]):
    """An action on what belongs to no account."""

    scope: ClassVar[Scope] = Scope.ADMIN
    nav: ClassVar[str] = "system"

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        return ()


class CreateKey(_OfNobody):
    path = KEYS + "/new"
    name = "api-key"
    title = "Make an API key"
    verb = "Make the key"
    document = NewKeyDocument
    fields = (
        Field(name="name", label="Name", required=True, hint="For you, to know it again."),
        Field(name="scopes", label="What it may do", kind=Typed.CHOICES, required=True, choices=SCOPES),
        Field(name="expires_at", label="Expires at", kind=Typed.MOMENT, hint="UTC; never if empty."),
    )

    def __init__(self, ids: Ids, randomness: Randomness) -> None:
        super().__init__(ids)
        self._randomness = randomness

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        return Subject(account_id=NIL_ACCOUNT, name="API keys", back=KEYS)

    async def do(self, transaction: Transaction, deed: Deed[NewKeyDocument]) -> Outcome:
        _, secret = await create_key(
            transaction, self._ids, self._randomness, deed.asked, now=deed.now, actor=deed.actor
        )
        return Outcome(told=[("It may", ", ".join(sorted(deed.asked.scopes)))], secrets={"Key": secret})


class NothingDocument(Document):
    """Nothing has to be said."""


class RevokeKey(_OfNobody):
    path = KEYS + "/{key_id}/revoke"
    name = "revoke"
    title = "Revoke an API key"
    verb = "Revoke it"
    lead = "Whoever uses this key is refused from then on. It cannot be undone: make another key first."
    document = NothingDocument
    dangerous = True
    fields = ()

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        key_id = parse_reference_id(Kind.API_KEY, visit.part("key_id"))
        key = None if key_id is None else await key_by_id(transaction, key_id)
        if key is None:
            raise unknown_key()
        return Subject(account_id=NIL_ACCOUNT, name=key.name, back=KEYS, key=key.id)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        key = None if subject.key is None else await key_by_id(transaction, subject.key)
        return [("The key is taken", "yes" if key is not None and key.is_valid(now) else "no", True)]

    async def do(self, transaction: Transaction, deed: Deed[NothingDocument]) -> Outcome:
        if deed.subject.key is None:
            raise TypeError("a key has an id")
        await revoke_key(transaction, self._ids, deed.subject.key, deed.now, deed.actor)
        return Outcome()


class NewAccountDocument(Document):
    name: Text
    role: Annotated[Role, PlainString]


class _WithPassword(_OfNobody):
    """An action that makes a password: nobody types one that is used elsewhere, and no form carries it along."""

    def __init__(self, ids: Ids, randomness: Randomness, passwords: Passwords) -> None:
        super().__init__(ids)
        self._randomness = randomness
        self._passwords = passwords

    async def _password(self) -> tuple[str, str]:
        """A new password, and its hash."""
        made = base32(self._randomness.token(PASSWORD_BYTES))
        return made, await self._passwords.hash(made)


class CreateAdmin(_WithPassword):
    path = ADMINS + "/new"
    name = "admin-new"
    title = "Make an admin account"
    verb = "Make the account"
    document = NewAccountDocument
    fields = (
        Field(name="name", label="Name", required=True, hint="To sign in with. The password is made here, and shown."),
        Field(name="role", label="Role", kind=Typed.CHOICE, choices=ROLES, default=Role.READ_ONLY.value),
    )

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        return Subject(account_id=NIL_ACCOUNT, name="Admins", back=ADMINS)

    async def do(self, transaction: Transaction, deed: Deed[NewAccountDocument]) -> Outcome:
        password, hashed = await self._password()
        await create_admin(
            transaction, self._ids, deed.asked.name, deed.asked.role, hashed, now=deed.now, actor=deed.actor
        )
        return Outcome(secrets={"Password": password})


class NewPassword(_WithPassword):
    path = ADMINS + "/{name}/password"
    name = "admin-password"
    title = "Another password"
    verb = "Make another password"
    lead = (
        "A new password is made here and shown once. The old one opens nothing any more, and who is signed in is out."
    )
    document = NothingDocument
    fields = ()

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        found = await admin_by_name(transaction, visit.part("name"))
        if found is None:
            raise unknown_admin()
        return Subject(account_id=NIL_ACCOUNT, name=found[0].name, back=ADMINS)

    async def do(self, transaction: Transaction, deed: Deed[NothingDocument]) -> Outcome:
        password, hashed = await self._password()
        await change_password(transaction, self._ids, deed.subject.name, hashed, now=deed.now, actor=deed.actor)
        return Outcome(told=[("Whoever is signed in with it", "is signed out")], secrets={"Password": password})


class AdminDocument(Document):
    role: Annotated[Role, PlainString]
    disabled: Flag


class ChangeAdmin(_OfNobody):
    path = ADMINS + "/{name}"
    name = "admin-change"
    title = "Change an admin account"
    verb = "Change it"
    document = AdminDocument
    fields = (
        Field(name="role", label="Role", kind=Typed.CHOICE, choices=ROLES),
        Field(name="disabled", label="Closed: it is signed out, and opens nothing any more", kind=Typed.FLAG),
    )

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        found = await admin_by_name(transaction, visit.part("name"))
        if found is None:
            raise unknown_admin()
        admin = found[0]
        given = {"role": admin.role.value, **({"disabled": "yes"} if admin.disabled_at is not None else {})}
        return Subject(account_id=NIL_ACCOUNT, name=admin.name, back=ADMINS, given=given)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        found = await admin_by_name(transaction, subject.name)
        if found is None:
            raise unknown_admin()
        closed = "no" if found[0].disabled_at is None else "yes"
        return [("Role", found[0].role.value, True), ("Closed", closed, True)]

    async def do(self, transaction: Transaction, deed: Deed[AdminDocument]) -> Outcome:
        await change_admin(
            transaction,
            self._ids,
            deed.subject.name,
            now=deed.now,
            actor=deed.actor,
            role=deed.asked.role,
            disabled=deed.asked.disabled,
        )
        return Outcome()
