"""Endpoints: to whom events are told. Made, changed, disabled and enabled, deleted; their secrets rotated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Row, Select, func, insert, select, tuple_, update

from app.core.access import Actor
from app.core.ids import NIL_ACCOUNT, Kind, parse_reference_id, reference_id
from app.core.targets import MAX_URL, Refused, read_target
from app.core.units import US_PER_DAY, Instant, Micros, format_instant
from app.db.database import Transaction
from app.db.tables import endpoints
from app.deliveries.secrets import (
    EndpointSecret,
    is_sealed_by_an_old_key,
    new_secret,
    open_secrets,
    rotated,
    seal_secrets,
    valid,
)
from app.documents import Document, Duration, PlainString, Text
from app.errors import ENDPOINT_DISABLED, NOT_FOUND, TOO_MANY_ENDPOINTS, Problem, invalid
from app.events.outbox import EventType
from app.http.pages import cursor_instant, cursor_uuid, make_cursor, page, read_cursor
from app.keys import KeyRing
from app.ledger.audit import Audit, record_audits
from app.ports.ids import Ids
from app.ports.randomness import Randomness

MAX_ENDPOINTS: Final = 100
"""Endpoints that are not deleted. Each has places of its own in every process."""

OVERLAP: Final = Micros(US_PER_DAY)
MAX_OVERLAP: Final = Micros(7 * US_PER_DAY)

SUBSCRIBABLE: Final = tuple(kind for kind in EventType if kind is not EventType.ENDPOINT_TEST)


class EndpointState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    """Nothing is sent and no event dispatched to it; what waited goes on waiting."""
    DELETED = "deleted"


class WhyDisabled(StrEnum):
    BY_HAND = "by_hand"
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """Every attempt failed for five days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPorts:
    """What endpoints need besides a transaction. ``private_ok``: see :func:`~app.core.targets.read_target`."""

    ids: Ids
    randomness: Randomness
    keys: KeyRing = field(repr=False)
    private_ok: bool


def _url(value: Any) -> str:
    if type(value) is not str:
        raise PydanticCustomError("refused", "must be a string")
    # How it must look in any case. Where it may lead is for the settings to say, which a document does not know.
    refused = read_target(value, private_ok=True)
    if isinstance(refused, Refused):
        raise PydanticCustomError("refused", "{why}", {"why": refused.why})
    return value


Url = Annotated[
    str,
    PlainValidator(_url),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": MAX_URL,
            "pattern": "^https?://[!-~]+$",
            "examples": ["https://example.com/talktime"],
        }
    ),
]
Wanted = Annotated[list[Annotated[EventType, PlainString]], Field(max_length=len(SUBSCRIBABLE))]


def _check_wanted(wanted: Sequence[EventType] | None) -> None:
    if wanted is not None and (len(set(wanted)) < len(wanted) or EventType.ENDPOINT_TEST in wanted):
        raise PydanticCustomError("wanted", "event_types must name each type once, and no webhook_endpoint.test")


class NewEndpointDocument(Document):
    """An endpoint as it is asked for. ``event_types`` empty or absent: all, those of later versions as well."""

    url: Url
    description: Text | None = None
    event_types: Wanted = []  # noqa: RUF012 - the library copies it

    @model_validator(mode="after")
    def _wanted(self) -> "NewEndpointDocument":
        _check_wanted(self.event_types)
        return self


class EndpointChangesDocument(Document):
    """What is absent stays as it is; ``description`` null takes it away."""

    url: Url | None = None
    description: Text | None = None
    event_types: Wanted | None = None
    state: Annotated[Literal["active", "disabled"], PlainString] | None = None

    @model_validator(mode="after")
    def _no_nulls(self) -> "EndpointChangesDocument":
        for name in self.model_fields_set - {"description"}:
            if getattr(self, name) is None:
                raise PydanticCustomError("null", f"{name} must not be null")
        _check_wanted(self.event_types)
        return self


class RotationDocument(Document):
    """For how long the secret of before goes on to sign as well."""

    overlap_s: Annotated[Duration, Field(le=MAX_OVERLAP)] = OVERLAP


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is stored."""

    id: UUID
    url: str
    description: str | None
    event_types: frozenset[str]
    sealed: bytes
    state: EndpointState
    created_at: Instant
    failing_since: Instant | None
    disabled_at: Instant | None
    disabled_why: str | None

    @property
    def public_id(self) -> str:
        return reference_id(Kind.ENDPOINT, self.id)

    def wants(self, kind: str) -> bool:
        """Whether events of this ``kind`` are dispatched to it."""
        asked = kind in self.event_types if self.event_types else kind != EventType.ENDPOINT_TEST
        return self.state is EndpointState.ACTIVE and asked


def endpoint_id_of(text: str) -> UUID:
    """The id in a public one. Raises a :class:`~app.errors.Problem`, 404."""
    found = parse_reference_id(Kind.ENDPOINT, text)
    if found is None:
        raise unknown_endpoint()
    return found


def unknown_endpoint() -> Problem:
    return Problem(NOT_FOUND, "there is no endpoint with this id")


async def load_endpoint(transaction: Transaction, endpoint_id: UUID, *, lock: bool = False) -> Endpoint:
    """The endpoint. Raises a :class:`~app.errors.Problem`, 404, if there is none, or it was deleted."""
    statement = _there().where(endpoints.c.id == endpoint_id)
    row = (await transaction.execute(statement.with_for_update(key_share=True) if lock else statement)).one_or_none()
    if row is None:
        raise unknown_endpoint()
    return _endpoint(row)


async def load_active(transaction: Transaction, endpoint_id: UUID) -> Endpoint:
    """As :func:`load_endpoint`, and 409 for one that is disabled; nobody disables it until this transaction ends."""
    statement = _there().where(endpoints.c.id == endpoint_id).with_for_update(read=True)
    row = (await transaction.execute(statement)).one_or_none()
    if row is None:
        raise unknown_endpoint()
    endpoint = _endpoint(row)
    if endpoint.state is not EndpointState.ACTIVE:
        raise Problem(ENDPOINT_DISABLED, "enable the endpoint first")
    return endpoint


async def active_endpoints(transaction: Transaction) -> list[Endpoint]:
    statement = select(endpoints).where(endpoints.c.state == EndpointState.ACTIVE.value).order_by(endpoints.c.id)
    return [_endpoint(row) for row in await transaction.execute(statement)]


async def all_endpoints(transaction: Transaction) -> list[Endpoint]:
    """Those that are not deleted, newest first."""
    return [_endpoint(row) for row in await transaction.execute(_newest_first())]


async def endpoints_page(transaction: Transaction, *, limit: int, cursor: str | None) -> dict[str, Any]:
    """A page of endpoints, newest first. Raises a :class:`~app.errors.Problem`, 422, for a cursor of another list."""
    statement = _newest_first()
    position = read_cursor(cursor, int, str)
    if position is not None:
        place = tuple_(endpoints.c.created_at, endpoints.c.id)
        statement = statement.where(place < (cursor_instant(position[0]), cursor_uuid(position[1])))
    rows = (await transaction.execute(statement.limit(limit + 1))).all()
    shown = rows[:limit]
    more = make_cursor(shown[-1].created_at, str(shown[-1].id)) if len(rows) > limit else None
    return page([endpoint_document(_endpoint(row)) for row in shown], more)


async def create_endpoint(
    transaction: Transaction, ports: EndpointPorts, asked: NewEndpointDocument, *, now: Instant, actor: Actor
) -> tuple[dict[str, Any], str]:
    """Make an endpoint; its document, and its secret, which is shown this once.

    Raises a :class:`~app.errors.Problem`: 422 for a URL that nothing is sent to, 409 if there are too many.
    """
    _check_target(asked.url, ports)
    # Two who create at once may both be let in: a limit of kindness, which nothing rests on.
    there = select(func.count()).select_from(endpoints).where(endpoints.c.state != EndpointState.DELETED.value)
    if (await transaction.execute(there)).scalar_one() >= MAX_ENDPOINTS:
        raise Problem(TOO_MANY_ENDPOINTS, f"there are {MAX_ENDPOINTS} endpoints; delete one first")
    endpoint_id = ports.ids.new()
    secret = new_secret(ports.randomness)
    await transaction.execute(
        insert(endpoints).values(
            id=endpoint_id,
            url=asked.url,
            description=asked.description,
            event_types=sorted(asked.event_types),
            secrets=seal_secrets(ports.keys, endpoint_id, [secret], ports.randomness),
            state=EndpointState.ACTIVE.value,
            created_at=now,
        )
    )
    document = endpoint_document(await load_endpoint(transaction, endpoint_id))
    await _audit(transaction, ports.ids, actor, "webhook_endpoint.create", document["id"], now, after=document)
    return document, secret.text


async def change_endpoint(
    transaction: Transaction,
    ports: EndpointPorts,
    endpoint_id: UUID,
    asked: EndpointChangesDocument,
    *,
    now: Instant,
    actor: Actor,
) -> dict[str, Any]:
    """Change what is given; its document. Raises a :class:`~app.errors.Problem`: 404, or 422 for the URL."""
    before = await load_endpoint(transaction, endpoint_id, lock=True)
    changes: dict[str, Any] = {}
    if asked.url is not None and asked.url != before.url:
        _check_target(asked.url, ports)
        changes["url"] = asked.url
    if "description" in asked.model_fields_set:
        changes["description"] = asked.description
    if asked.event_types is not None:
        changes["event_types"] = sorted(asked.event_types)
    if asked.state is not None and asked.state != before.state:
        changes |= enabled() if asked.state == "active" else disabled(WhyDisabled.BY_HAND, now)
    if not changes:
        return endpoint_document(before)
    await transaction.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(changes))
    was, document = endpoint_document(before), endpoint_document(await load_endpoint(transaction, endpoint_id))
    changed = [name for name in document if document[name] != was[name]]
    if changed:
        await _audit(
            transaction,
            ports.ids,
            actor,
            "webhook_endpoint.change",
            document["id"],
            now,
            before={name: was[name] for name in changed},
            after={name: document[name] for name in changed},
        )
    return document


def enabled() -> dict[str, Any]:
    """The columns of an endpoint that is to be active: the time for which it failed begins anew."""
    return {"state": EndpointState.ACTIVE.value, "disabled_at": None, "disabled_why": None, "failing_since": None}


def disabled(why: WhyDisabled, now: Instant) -> dict[str, Any]:
    return {"state": EndpointState.DISABLED.value, "disabled_at": now, "disabled_why": why.value}


async def delete_endpoint(
    transaction: Transaction, ids: Ids, endpoint_id: UUID, *, now: Instant, actor: Actor
) -> dict[str, Any]:
    """Delete it for good, its secrets too; its document as it was. What waits for it is dropped in time.

    The row stays, as deliveries name it. Raises a :class:`~app.errors.Problem`, 404.
    """
    endpoint = await load_endpoint(transaction, endpoint_id, lock=True)
    gone = {"state": EndpointState.DELETED.value, "secrets": b"", "disabled_at": now}
    await transaction.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(gone))
    document = endpoint_document(endpoint)
    was = {"url": endpoint.url, "state": endpoint.state.value}
    gone_now = {**was, "state": EndpointState.DELETED.value}
    await _audit(transaction, ids, actor, "webhook_endpoint.delete", document["id"], now, before=was, after=gone_now)
    return document


async def rotate_secret(
    transaction: Transaction,
    ports: EndpointPorts,
    endpoint_id: UUID,
    overlap: Micros,
    *,
    now: Instant,
    actor: Actor,
) -> tuple[dict[str, Any], str]:
    """Give an endpoint a new secret; those of before sign beside it for ``overlap``. Its document, and the secret.

    Raises a :class:`~app.errors.Problem`, 404.
    """
    endpoint = await load_endpoint(transaction, endpoint_id, lock=True)
    # Secrets whose key is gone sign nothing any more: the new one is all there is.
    before = open_secrets(ports.keys, endpoint_id, endpoint.sealed) or []
    secret = new_secret(ports.randomness)
    secrets = rotated(before, secret, now, Instant(now + overlap))
    sealed = seal_secrets(ports.keys, endpoint_id, secrets, ports.randomness)
    await transaction.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(secrets=sealed))
    document = endpoint_document(endpoint) | {"previous_secret_until": _last_end(secrets)}
    told = {"previous_secret_until": document["previous_secret_until"]}
    await _audit(transaction, ports.ids, actor, "webhook_endpoint.rotate", document["id"], now, after=told)
    return document, secret.text


async def reseal(transaction: Transaction, ports: EndpointPorts) -> int:
    """Seal all secrets by our present key, so that an older one may go; how many endpoints that were."""
    statement = select(endpoints).where(endpoints.c.state != EndpointState.DELETED.value).order_by(endpoints.c.id)
    found = [_endpoint(row) for row in await transaction.execute(statement)]
    done = 0
    for endpoint in found:
        if not is_sealed_by_an_old_key(ports.keys, endpoint.sealed):
            continue
        secrets = open_secrets(ports.keys, endpoint.id, endpoint.sealed)
        if secrets is None:
            continue
        sealed = seal_secrets(ports.keys, endpoint.id, secrets, ports.randomness)
        # Who rotates meanwhile has sealed them anew already.
        same = (endpoints.c.id == endpoint.id, endpoints.c.secrets == endpoint.sealed)
        done += (await transaction.execute(update(endpoints).where(*same).values(secrets=sealed))).rowcount
    return done


def secrets_of(ports: EndpointPorts, endpoint: Endpoint, now: Instant) -> list[EndpointSecret]:
    """With what is signed now; empty if the key that sealed them is gone."""
    return valid(open_secrets(ports.keys, endpoint.id, endpoint.sealed) or [], now)


def endpoint_document(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.public_id,
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": [kind for kind in EventType if kind in endpoint.event_types],
        "state": endpoint.state,
        "created_at": format_instant(endpoint.created_at),
        "failing_since": _instant(endpoint.failing_since),
        "disabled_at": _instant(endpoint.disabled_at),
        "disabled_why": endpoint.disabled_why,
    }


def _check_target(url: str, ports: EndpointPorts) -> None:
    refused = read_target(url, private_ok=ports.private_ok)
    if isinstance(refused, Refused):
        raise invalid("/url", refused.why)


def _there() -> Select[Any]:
    return select(endpoints).where(endpoints.c.state != EndpointState.DELETED.value)


def _newest_first() -> Select[Any]:
    return _there().order_by(endpoints.c.created_at.desc(), endpoints.c.id.desc())


def _endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint(
        id=row.id,
        url=row.url,
        description=row.description,
        event_types=frozenset(row.event_types),
        sealed=row.secrets,
        state=EndpointState(row.state),
        created_at=row.created_at,
        failing_since=row.failing_since,
        disabled_at=row.disabled_at,
        disabled_why=row.disabled_why,
    )


async def _audit(
    transaction: Transaction,
    ids: Ids,
    actor: Actor,
    action: str,
    target: str,
    now: Instant,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    audit = Audit(actor=actor, action=action, target=target, before=before, after=after)
    await record_audits(transaction, ids, NIL_ACCOUNT, [audit], now)


def _last_end(secrets: Sequence[EndpointSecret]) -> str | None:
    ends = [secret.until for secret in secrets if secret.until is not None]
    return format_instant(max(ends)) if ends else None


def _instant(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)
