"""Endpoints: to whom events are told, what arrived, what did not, and what is done about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT, parse_reference_id
from app.core.ids import Kind as IdKind
from app.core.units import Instant, format_millionths
from app.db.database import Database, Transaction
from app.deliveries.endpoints import (
    SUBSCRIBABLE,
    Endpoint,
    EndpointChangesDocument,
    EndpointPorts,
    NewEndpointDocument,
    RotationDocument,
    all_endpoints,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    endpoint_document,
    endpoint_id_of,
    load_endpoint,
    rotate_secret,
)
from app.deliveries.events import event_body, event_document, event_key, load_event
from app.deliveries.log import (
    AskedDeliveries,
    Backlog,
    DeliveryState,
    backlogs,
    deliveries_page,
    load_delivery,
    urls_of,
)
from app.deliveries.replay import (
    RedeliverDocument,
    ReplayDocument,
    redeliver,
    replay,
    retry_dead_letters,
    send_test,
)
from app.documents import Document, Moment
from app.http.pages import DEFAULT_LIMIT
from app.web.actions import Action, Deed, Outcome, Subject
from app.web.forms import Field
from app.web.forms import Kind as Typed
from app.web.site import ADMIN, Page, Visit

ENDPOINTS: Final = ADMIN + "/endpoints"
DEAD_LETTERS: Final = ADMIN + "/dead-letters"
MOST_CALLS: Final = 10
"""A replay by its form goes on for so many calls of the API."""

_TYPES: Final = tuple((kind.value, kind.value) for kind in SUBSCRIBABLE)
_URL: Final = Field(name="url", label="URL", required=True, hint="https, a public host, port 443 or 8443.")
_DESCRIPTION: Final = Field(name="description", label="Description", hint="For you, to know it again.", clears=True)
_WANTED: Final = Field(
    name="event_types", label="Events", kind=Typed.CHOICES, choices=_TYPES, hint="None: all, later types as well."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPages:
    database: Database

    def pages(self) -> list[Page]:
        return [
            Page(ENDPOINTS, self._list),
            Page(ENDPOINTS + "/{endpoint_id}", self._endpoint),
            Page(ENDPOINTS + "/{endpoint_id}/deliveries/{event_id}", self._delivery),
            Page(DEAD_LETTERS, self._dead),
        ]

    async def _list(self, visit: Visit) -> Response:
        async with self.database.reading() as transaction:
            found = await all_endpoints(transaction)
            waiting = await backlogs(transaction, visit.now)
        rows = [(endpoint_document(one), waiting.get(one.id, Backlog()).document()) for one in found]
        return visit.page("endpoints.html", nav="events", rows=rows)

    async def _endpoint(self, visit: Visit) -> Response:
        endpoint_id, cursor = endpoint_id_of(visit.part("endpoint_id")), visit.asked("cursor") or None
        state = visit.asked("state")
        asked = AskedDeliveries(
            endpoint_id=endpoint_id, state=DeliveryState(state) if state in set(DeliveryState) else None
        )
        async with self.database.reading() as transaction:
            endpoint = await load_endpoint(transaction, endpoint_id)
            backlog = (await backlogs(transaction, visit.now, endpoint_id)).get(endpoint_id, Backlog())
            found = await deliveries_page(transaction, asked, limit=DEFAULT_LIMIT, cursor=cursor)
        return visit.page(
            "endpoint.html",
            nav="events",
            endpoint=endpoint_document(endpoint),
            backlog=backlog.document(),
            found=found,
            states=[one.value for one in DeliveryState],
            state="" if asked.state is None else asked.state.value,
            first=cursor is None,
        )

    async def _delivery(self, visit: Visit) -> Response:
        endpoint_id, key = endpoint_id_of(visit.part("endpoint_id")), event_key(visit.part("event_id"))
        async with self.database.reading() as transaction:
            endpoint = await load_endpoint(transaction, endpoint_id)
            delivery = await load_delivery(transaction, endpoint_id, key)
            event = await load_event(transaction, key)
        return visit.page(
            "delivery.html",
            nav="events",
            endpoint=endpoint_document(endpoint),
            delivery=delivery,
            event=event_document(event),
            body=event_body(event).decode(),
        )

    async def _dead(self, visit: Visit) -> Response:
        cursor = visit.asked("cursor") or None
        asked = AskedDeliveries(state=DeliveryState.DEAD)
        async with self.database.reading() as transaction:
            found = await deliveries_page(transaction, asked, limit=DEFAULT_LIMIT, cursor=cursor)
            ids = {parse_reference_id(IdKind.ENDPOINT, one["endpoint_id"]) for one in found["data"]}
            known = await urls_of(transaction, {one for one in ids if one is not None})
        urls = {one["endpoint_id"]: known.get(endpoint_id_of(one["endpoint_id"])) for one in found["data"]}
        return visit.page("dead_letters.html", nav="events", found=found, urls=urls, first=cursor is None)


class _OfEndpoint(Action[Any]):
    """An action on an endpoint, which belongs to no account."""

    scope: ClassVar[Scope] = Scope.ADMIN
    nav: ClassVar[str] = "events"

    def __init__(self, ports: EndpointPorts) -> None:
        self._ports = ports

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        endpoint = await load_endpoint(transaction, endpoint_id_of(visit.part("endpoint_id")))
        return _subject(endpoint)

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        """What waits there; it goes on by itself while somebody looks at a confirmation."""
        if subject.key is None:
            return ()
        backlog = (await backlogs(transaction, now, subject.key)).get(subject.key, Backlog())
        return [
            ("Deliveries that wait", str(backlog.waiting), False),
            ("Dead letters", str(backlog.dead), False),
        ]


def _subject(endpoint: Endpoint, **given: str) -> Subject:
    back = f"{ENDPOINTS}/{endpoint.public_id}"
    return Subject(account_id=NIL_ACCOUNT, name=endpoint.url, back=back, key=endpoint.id, given=given)


def _key(deed: Deed[Any]) -> Any:
    if deed.subject.key is None:
        raise TypeError("an endpoint has an id")
    return deed.subject.key


class CreateEndpoint(_OfEndpoint):
    path = ENDPOINTS + "/new"
    name = "endpoint"
    title = "Make an endpoint"
    verb = "Make the endpoint"
    document = NewEndpointDocument
    fields = (_URL, _DESCRIPTION, _WANTED)

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        return Subject(account_id=NIL_ACCOUNT, name="Endpoints", back=ENDPOINTS)

    async def do(self, transaction: Transaction, deed: Deed[NewEndpointDocument]) -> Outcome:
        _, secret = await create_endpoint(transaction, self._ports, deed.asked, now=deed.now, actor=deed.actor)
        wanted = ", ".join(deed.asked.event_types) or "all events"
        return Outcome(told=[("It is told", wanted)], secrets={"Secret": secret})


class ChangeEndpoint(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/change"
    name = "endpoint-change"
    title = "Change an endpoint"
    verb = "Change it"
    document = EndpointChangesDocument
    repeats = False
    fields = (
        _URL,
        _DESCRIPTION,
        _WANTED,
        Field(
            name="state",
            label="State",
            kind=Typed.CHOICE,
            choices=(("active", "active"), ("disabled", "disabled: nothing is sent, and nothing new is kept for it")),
        ),
    )

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        endpoint = await load_endpoint(transaction, endpoint_id_of(visit.part("endpoint_id")))
        given = {"url": endpoint.url, "description": endpoint.description or "", "state": endpoint.state.value}
        return _subject(endpoint, **given, event_types=" ".join(sorted(endpoint.event_types)))

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        if subject.key is None:
            return ()
        endpoint = await load_endpoint(transaction, subject.key)
        wanted = ", ".join(sorted(endpoint.event_types)) or "all"
        return [
            ("URL", endpoint.url, True),
            ("Description", endpoint.description or "–", True),
            ("Events", wanted, True),
            ("State", endpoint.state.value, True),
        ]

    async def do(self, transaction: Transaction, deed: Deed[EndpointChangesDocument]) -> Outcome:
        await change_endpoint(transaction, self._ports, _key(deed), deed.asked, now=deed.now, actor=deed.actor)
        return Outcome()


class NothingDocument(Document):
    """Nothing has to be said."""


class DeleteEndpoint(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/delete"
    name = "endpoint-delete"
    title = "Delete an endpoint"
    verb = "Delete it"
    document = NothingDocument
    dangerous = True
    fields = ()

    async def do(self, transaction: Transaction, deed: Deed[NothingDocument]) -> Outcome:
        await delete_endpoint(transaction, self._ports.ids, _key(deed), now=deed.now, actor=deed.actor)
        return Outcome(told=[("What waits for it", "is dropped, for good")], back=ENDPOINTS)


class RotateSecret(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/rotate"
    name = "endpoint-rotate"
    title = "Another secret"
    verb = "Make another secret"
    document = RotationDocument
    fields = (
        Field(
            name="overlap_s",
            label="The present one signs as well for",
            kind=Typed.NUMBER,
            default="86400",
            hint="Seconds; a week at most. 0: it ends at once.",
        ),
    )

    async def state(self, transaction: Transaction, subject: Subject, now: Instant) -> Sequence[tuple[str, str, bool]]:
        return ()

    async def do(self, transaction: Transaction, deed: Deed[RotationDocument]) -> Outcome:
        _, secret = await rotate_secret(
            transaction, self._ports, _key(deed), deed.asked.overlap_s, now=deed.now, actor=deed.actor
        )
        overlap = f"{format_millionths(deed.asked.overlap_s)} s" if deed.asked.overlap_s else "no time"
        return Outcome(told=[("The one of before signs as well for", overlap)], secrets={"Secret": secret})


class SendTest(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/test"
    name = "endpoint-test"
    title = "Send a test event"
    verb = "Send it"
    document = NothingDocument
    confirmed = False
    fields = ()

    async def do(self, transaction: Transaction, deed: Deed[NothingDocument]) -> Outcome:
        await send_test(transaction, self._ports, _key(deed), now=deed.now, actor=deed.actor)
        return Outcome()


class StretchDocument(ReplayDocument):
    """Of a page's replay: it has a beginning, so that nobody sends all that ever was by leaving a form empty."""

    after: Moment


class Replay(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/replay"
    name = "endpoint-replay"
    title = "Send events again"
    verb = "Send them again"
    document = StretchDocument
    fields = (
        Field(name="after", label="From", kind=Typed.MOMENT, required=True, hint="UTC; included."),
        Field(name="before", label="To", kind=Typed.MOMENT, hint="UTC; not included. Until now if empty."),
        Field(
            name="event_types", label="Events", kind=Typed.CHOICES, choices=_TYPES, hint="None: those that it wants."
        ),
    )

    async def do(self, transaction: Transaction, deed: Deed[StretchDocument]) -> Outcome:
        asked = deed.asked
        for _ in range(MOST_CALLS):
            answer = await replay(transaction, self._ports.ids, _key(deed), asked, now=deed.now, actor=deed.actor)
            if answer["next_cursor"] is None:
                return Outcome()
            asked = asked.model_copy(update={"cursor": answer["next_cursor"]})
        return Outcome(told=[("Left out", "what comes after the first 10,000: choose shorter stretches")])


class Retry(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/retry"
    name = "endpoint-retry"
    title = "Try dead letters again"
    verb = "Try them again"
    document = NothingDocument
    fields = ()

    async def do(self, transaction: Transaction, deed: Deed[NothingDocument]) -> Outcome:
        await retry_dead_letters(transaction, self._ports.ids, _key(deed), now=deed.now, actor=deed.actor)
        return Outcome()


class SendAgain(_OfEndpoint):
    path = ENDPOINTS + "/{endpoint_id}/deliveries/{event_id}/again"
    name = "event-again"
    title = "Send an event again"
    verb = "Send it again"
    document = NothingDocument
    confirmed = False
    fields = ()

    async def subject(self, transaction: Transaction, visit: Visit) -> Subject:
        endpoint = await load_endpoint(transaction, endpoint_id_of(visit.part("endpoint_id")))
        key = event_key(visit.part("event_id"))
        await load_event(transaction, key)
        back = f"{ENDPOINTS}/{endpoint.public_id}/deliveries/{visit.part('event_id')}"
        # The account is the event's: whoever looks up what concerns a user finds it.
        return Subject(account_id=key.account_id, name=visit.part("event_id"), back=back, key=endpoint.id)

    async def do(self, transaction: Transaction, deed: Deed[NothingDocument]) -> Outcome:
        endpoint = await load_endpoint(transaction, _key(deed))
        asked = RedeliverDocument(endpoint_id=endpoint.public_id)
        event = event_key(deed.subject.name)
        await redeliver(transaction, self._ports.ids, event, asked, now=deed.now, actor=deed.actor)
        return Outcome()


def endpoint_actions(ports: EndpointPorts) -> tuple[Action[Any], ...]:
    return (
        CreateEndpoint(ports),
        ChangeEndpoint(ports),
        DeleteEndpoint(ports),
        RotateSecret(ports),
        SendTest(ports),
        Replay(ports),
        Retry(ports),
        SendAgain(ports),
    )
