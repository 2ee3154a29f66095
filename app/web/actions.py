"""What an admin does: a form, then what would come of it, then the thing itself.

What would come of it is no guess: the action is done in a transaction that is rolled back. The confirmation carries a
digest of what was shown; done for good, the action must come to the same, or nothing is changed and the new effect is
shown. It carries an idempotency key as well, so that a second click, or a form that is sent again, does nothing more.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Generic
from uuid import UUID

from starlette.responses import RedirectResponse, Response

from app.core.access import Actor, Scope
from app.core.ids import base32
from app.core.units import Instant
from app.db.database import Database, Transaction
from app.documents import AnyDocument, validate
from app.errors import CHANGED_MEANWHILE, INVALID_REQUEST, FieldError, Problem
from app.http.answers import Answer
from app.http.idempotency import IdempotencyKey, write_once
from app.http.sealing import Sealing
from app.web.forms import Field, Form, defaults, errors_by_field
from app.web.site import Page, Visit

_STEP: Final = "step"
_KEY: Final = "key"
_SHOWN: Final = "shown"
_KEY_BYTES: Final = 16
HTTP_REFUSED: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an action is about: an account's thing, how it is called on the page, and the page to go back to.

    ``given``: what stands in the form at first. ``choices``: those of fields for which they depend on what there is.
    """

    account_id: UUID
    name: str
    back: str
    given: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    key: UUID | None = None
    """Of the thing itself, where it is not the account."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that an action changes. Of lines that are not ``firm`` nothing is asked when it is done for good:
    they change by themselves, as a hold does while a session goes on."""

    label: str
    before: str
    after: str
    firm: bool = True

    @property
    def changes(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed(Generic[AnyDocument]):
    """An action as it is done: by whom, when, and the ``cause`` of which natural keys are made."""

    subject: Subject
    asked: AnyDocument
    actor: Actor
    now: Instant
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it: what is told of it (label and value), and secrets, which are shown this once.

    ``lines``: what it changes, where that depends on what was asked, besides the action's own state.
    """

    lines: Sequence[Line] = ()
    told: Sequence[tuple[str, str]] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    back: str | None = None
    """Where to go on, if not back to where the action began."""


class Action(ABC, Generic[AnyDocument]):
    """One thing that admins may do. ``path`` leads to its form; ``verb`` stands on its button."""

    path: ClassVar[str]
    name: ClassVar[str]
    title: ClassVar[str]
    verb: ClassVar[str]
    scope: ClassVar[Scope]
    document: type[AnyDocument]
    nav: ClassVar[str] = "users"
    lead: ClassVar[str] = ""
    """Said above the form, where its fields do not tell what it is about to do."""
    dangerous: ClassVar[bool] = False
    """It takes something away."""
    confirmed: ClassVar[bool] = True
    """Whether what it comes to is shown first. Not where it changes nothing for anybody."""
    repeats: ClassVar[bool] = True
    """Whether the confirmation repeats what was typed. Not where the lines say it."""
    template: ClassVar[str] = "action.html"

    @property
    @abstractmethod
    def fields(self) -> Sequence[Field]: ...

    @abstractmethod
    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        """What it is about, from the address. Raises a :class:`~app.errors.Problem`, 404."""

    async def beforehand(self, subject: Subject, asked: AnyDocument) -> None:
        """What has to be done first and takes no part in the transaction, such as a call to the provider."""

    @abstractmethod
    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        """What it may change: label, value, and whether that is firm. See :class:`Line`."""

    @abstractmethod
    async def do(self, transaction: Transaction, deed: Deed[AnyDocument]) -> Outcome:
        """Do it. Raises a :class:`~app.errors.Problem` where the API's call would."""

    async def aside(self, visit: Visit, subject: Subject, typed: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
        """What the form's own template needs besides the form."""
        return {}

    def elsewhere(self, step: str, asked: AnyDocument) -> str | None:
        """Where a button of the form's own leads, named by its ``step``; null if there is none such."""
        return None


class _ShownOtherwise(Exception):
    def __init__(self, effect: "_Effect") -> None:
        super().__init__()
        self.effect = effect


@dataclass(frozen=True, slots=True)
class _Effect:
    lines: Sequence[Line]
    outcome: Outcome

    @property
    def digest(self) -> str:
        firm = [(line.label, line.before, line.after) for line in self.lines if line.firm]
        told = json.dumps([firm, list(self.outcome.told)]).encode()
        return hashlib.sha256(told).hexdigest()


class Actions:
    """Pages for actions."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing

    def pages(self, action: Action[Any]) -> list[Page]:
        """The form of ``action``, and what it is sent to."""

        async def ask(visit: Visit) -> Response:
            async with self._database.reading() as transaction:
                subject = await action.subject(transaction, visit)
            by_address = {one.name: visit.asked(one.name) for one in action.fields if visit.asked(one.name)}
            typed = defaults(action.fields, {**subject.given, **by_address})
            return await self._form(visit, action, subject, typed)

        async def take(visit: Visit) -> Response:
            form = await visit.form()
            async with self._database.reading() as transaction:
                subject = await action.subject(transaction, visit)
            typed = form.typed(action.fields)
            step = form.one(_STEP)
            if step == "edit":
                return await self._form(visit, action, subject, typed)
            try:
                asked = validate(action.document, form.document(action.fields))
                address = action.elsewhere(step, asked)
                if address is not None:
                    return RedirectResponse(address, 303)
                if step == "try":
                    return await self._form(visit, action, subject, typed)
                await action.beforehand(subject, asked)
                if step == "do" or not action.confirmed:
                    return await self._do(visit, action, subject, asked, form)
                return await self._look(visit, action, subject, asked, typed)
            except Problem as problem:
                if problem.status >= 500:
                    raise
                return await self._form(visit, action, subject, typed, problem)

        return [Page(action.path, ask, scope=action.scope), Page(action.path, take, "POST", scope=action.scope)]

    async def _look(
        self, visit: Visit, action: Action[Any], subject: Subject, asked: Any, typed: Mapping[str, Sequence[str]]
    ) -> Response:
        deed = Deed(subject=subject, asked=asked, actor=visit.actor, now=visit.now, cause=self._new_key())
        async with self._database.rehearsal() as transaction:
            effect = await _effect(transaction, action, deed)
        return _confirmation(visit, action, subject, typed, effect, self._new_key())

    async def _do(self, visit: Visit, action: Action[Any], subject: Subject, asked: Any, form: Form) -> Response:
        shown = form.one(_SHOWN)
        typed = form.typed(action.fields)
        key = _idempotency_key(visit, form.one(_KEY), shown, typed)
        deed = Deed(subject=subject, asked=asked, actor=visit.actor, now=visit.now, cause=key.key_hash.hex())

        async def work(transaction: Transaction) -> Answer:
            effect = await _effect(transaction, action, deed)
            if action.confirmed and effect.digest != shown:
                raise _ShownOtherwise(effect)
            told = {"told": list(effect.outcome.told), "back": effect.outcome.back}
            return Answer(200, told, secrets=dict(effect.outcome.secrets))

        try:
            done = await write_once(self._database, subject.account_id, key, visit.now, work, self._sealing)
        except _ShownOtherwise as otherwise:
            changed = Problem(CHANGED_MEANWHILE, "it has changed since you looked: this is what it would come to now")
            return _confirmation(visit, action, subject, typed, otherwise.effect, self._new_key(), changed)
        answer: dict[str, Any] = json.loads(bytes(done.body))
        if done.status_code >= HTTP_REFUSED:  # under this key before: whoever sends a form again is told the same
            raise _given_again(answer)
        told, back = answer.pop("told"), answer.pop("back") or subject.back
        if answer:
            return visit.page("shown_once.html", action=action, subject=subject, told=told, secrets=answer, back=back)
        mark = "&" if "?" in back else "?"
        return RedirectResponse(f"{back}{mark}done={action.name}", 303)

    async def _form(
        self,
        visit: Visit,
        action: Action[Any],
        subject: Subject,
        typed: Mapping[str, Sequence[str]],
        problem: Problem | None = None,
    ) -> Response:
        errors, others = ({}, []) if problem is None else errors_by_field(problem, action.fields)
        # What was refused under a key stays refused under it: each form has its own.
        hidden = {} if action.confirmed else {_STEP: "do", _KEY: self._new_key()}
        return visit.page(
            action.template,
            200 if problem is None else problem.status,
            action=action,
            subject=subject,
            fields=_fields(action, subject),
            typed=typed,
            errors=errors,
            others=others,
            hidden=hidden,
            wrong=problem is not None and problem.kind is INVALID_REQUEST,
            nav=action.nav,
            **await action.aside(visit, subject, typed),
        )

    def _new_key(self) -> str:
        return base32(self._sealing.randomness.token(_KEY_BYTES))


def _given_again(document: Mapping[str, Any]) -> Problem:
    """A refusal as it was stored. Only those are whose request was not valid, or not covered."""
    errors = [FieldError(error["pointer"], error["detail"]) for error in document.get("errors", ())]
    code = INVALID_REQUEST if errors else CHANGED_MEANWHILE
    return Problem(code, document["detail"], errors=errors)


async def _effect(transaction: Transaction, action: Action[Any], deed: Deed[Any]) -> _Effect:
    before = await action.state(transaction, deed.subject, deed.now)
    outcome = await action.do(transaction, deed)
    after = await action.state(transaction, deed.subject, deed.now)
    lines = [
        Line(label, earlier, later, firm) for (label, earlier, firm), (_, later, _) in zip(before, after, strict=True)
    ]
    return _Effect([*lines, *outcome.lines], outcome)


def _idempotency_key(visit: Visit, raw: str, shown: str, typed: Mapping[str, Sequence[str]]) -> IdempotencyKey:
    if not raw:
        raise Problem(CHANGED_MEANWHILE, "look at what it comes to first, and confirm that")
    request = json.dumps([visit.request.url.path, shown, sorted(typed.items())]).encode()
    whose = f"talktime/form\x00{raw}".encode()
    return IdempotencyKey(hashlib.sha256(whose).digest(), hashlib.sha256(request).digest(), raw.encode())


def _fields(action: Action[Any], subject: Subject) -> list[Field]:
    return [
        replace(one, choices=subject.choices[one.name]) if one.name in subject.choices else one for one in action.fields
    ]


def _confirmation(
    visit: Visit,
    action: Action[Any],
    subject: Subject,
    typed: Mapping[str, Sequence[str]],
    effect: _Effect,
    key: str,
    problem: Problem | None = None,
) -> Response:
    return visit.page(
        "confirm.html",
        200 if problem is None else problem.status,
        action=action,
        subject=subject,
        fields=_fields(action, subject),
        typed=typed,
        effect=effect,
        hidden={_KEY: key, _SHOWN: effect.digest},
        problem=problem,
        nav=action.nav,
    )
