"""``Idempotency-Key``: one key, one effect, one answer.

The key's row is inserted in the transaction of the effect, so both are there or neither. A concurrent duplicate waits
and then gives the stored answer again; 409 if the wait runs out. Within a process it waits without a connection, so
that many requests for one account keep no other user waiting; that of another process waits on the insert. Only the
key's hash is kept.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, cast
from uuid import UUID

import msgspec
from sqlalchemy import Row, Update, and_, bindparam, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.responses import Response

from app.core.units import US_PER_DAY, US_PER_S, Instant, Micros
from app.db.database import LOCK_TIMEOUT_MS, POOL_TIMEOUT_S, Database, DatabaseUnavailable, Transaction
from app.db.tables import idempotency
from app.documents import AnyDocument, decode, validate
from app.errors import IDEMPOTENCY_CONFLICT, IDEMPOTENCY_EXPIRED, IDEMPOTENCY_IN_FLIGHT, FieldError, Problem, invalid
from app.http.answers import Answer, encode, problem_document
from app.http.bodies import read_bounded
from app.http.sealing import Sealing, seal, unseal
from app.ports.ids import Ids

MAX_KEY_LENGTH: Final = 255
KEPT: Final = 30 * US_PER_DAY
"""Answers are kept so long (30 days, in µs); the key's hash stays for ever."""

SEALED_FOR: Final = Micros(3600 * US_PER_S)
"""Secret parts of an answer are given again for so long."""

PURGED: Final = "purged"
PURGE_BATCH: Final = 1_000
STORED_REFUSALS: Final = frozenset({402, 422})
LOCK_NOT_AVAILABLE: Final = "55P03"
_THIS: Final = and_(idempotency.c.account_id == bindparam("of_account"), idempotency.c.key_hash == bindparam("of_key"))
_CLAIM: Final = upsert(idempotency).on_conflict_do_nothing().returning(idempotency.c.key_hash)
_CLAIMED: Final = select(idempotency).where(_THIS)
_COMPLETE: Final = update(idempotency).where(_THIS)
REPLAYED: Final = {"Idempotency-Replayed": "true"}


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key: its hash, the hash of the request it came with, and the raw key, which is never stored."""

    key_hash: bytes
    request_hash: bytes
    raw: bytes


def idempotency_key(request: Request, body: bytes) -> IdempotencyKey | None:
    """The request's key, if it has one; 422 if it is empty, too long or not printable ASCII."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1:
        raise invalid("/Idempotency-Key", "must be given once")
    raw = given[0]
    if not 1 <= len(raw) <= MAX_KEY_LENGTH or not raw.isascii() or not raw.isprintable():
        raise invalid("/Idempotency-Key", f"must have 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    digest = hashlib.sha256()
    path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    for part in (request.method.encode(), path, request.scope.get("query_string", b""), body):
        digest.update(len(part).to_bytes(8) + part)
    return IdempotencyKey(
        hashlib.sha256(b"talktime/idempotency\x00" + raw.encode()).digest(), digest.digest(), raw.encode()
    )


async def read_keyed(request: Request, kind: type[AnyDocument]) -> tuple[AnyDocument, IdempotencyKey | None]:
    """The document of ``kind`` in the request's body, and the request's key."""
    body = await read_bounded(request)
    return validate(kind, decode(body)), idempotency_key(request, body)


def cause_of(key: IdempotencyKey | None, ids: Ids) -> str:
    """What a natural key is made of where a request is the cause: its key, so that no retry is another cause."""
    return ids.new().hex if key is None else key.key_hash.hex()


@asynccontextmanager
async def keyed_transaction(
    database: Database, account_id: UUID, key: IdempotencyKey | None
) -> AsyncIterator[Transaction]:
    """A transaction to :func:`claim` the key in; requests of this process for one account take turns.

    Those with the same key wait for the first, and raise a :class:`~app.errors.Problem`, 409, if it takes longer than a
    transaction waits for a lock. Others of the account would only wait for its row, each with a connection that other
    users need; :class:`~app.db.database.DatabaseUnavailable` if their turn does not come.
    """
    async with AsyncExitStack() as stack:
        if key is not None:
            turn = database.turns.turn((account_id, key.key_hash), LOCK_TIMEOUT_MS / 1000)
            try:
                await stack.enter_async_context(turn)
            except TimeoutError:
                raise _in_flight() from None
        try:
            await stack.enter_async_context(database.turns.turn(account_id, POOL_TIMEOUT_S))
        except TimeoutError:
            raise DatabaseUnavailable("the account is too busy") from None
        yield await stack.enter_async_context(database.transaction())


async def claim(
    transaction: Transaction, account_id: UUID, key: IdempotencyKey, now: Instant, session_id: UUID | None = None
) -> Row[tuple[object, ...]] | None:
    """Claim the key in this transaction: null if it is ours now, else the row of the request that has it.

    Raises a :class:`~app.errors.Problem`: 422 if that was another request, 409 if it holds the key for too long.
    """
    pending = {
        "account_id": account_id,
        "key_hash": key.key_hash,
        "request_hash": key.request_hash,
        "state": "pending",
        "session_id": session_id,
        "created_at": now,
        "purge_at": now + KEPT,
    }
    try:
        if (await transaction.execute(_CLAIM, pending)).one_or_none() is not None:
            return None
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            raise _in_flight() from None
        raise
    row = await claimed(transaction, account_id, key)
    if row is None:
        raise RuntimeError("a key that is there cannot be read")
    return row


async def earlier_answer(transaction: Transaction, account_id: UUID, key: IdempotencyKey) -> Answer | None:
    """The answer stored under the key; null if no request with it is finished, or none was made.

    Raises a :class:`~app.errors.Problem`: 422 if that was another request, 409 if the answer was purged.
    """
    row = await claimed(transaction, account_id, key)
    return None if row is None or row._mapping["state"] == "pending" else stored_answer(row)


async def claimed(transaction: Transaction, account_id: UUID, key: IdempotencyKey) -> Row[tuple[object, ...]] | None:
    """The row of the request that has the key; null if none has. A :class:`~app.errors.Problem`, 422: another one's."""
    this = {"of_account": account_id, "of_key": key.key_hash}
    row = (await transaction.execute(_CLAIMED, this)).one_or_none()
    if row is not None and row._mapping["request_hash"] != key.request_hash:
        errors = [FieldError("/Idempotency-Key", "was used for another request")]
        raise Problem(IDEMPOTENCY_CONFLICT, "use a new Idempotency-Key for a new request", errors=errors)
    return row


def _in_flight() -> Problem:
    return Problem(IDEMPOTENCY_IN_FLIGHT, "the first request with this key is still under way")


async def complete(
    transaction: Transaction, account_id: UUID, key: IdempotencyKey, answer: Answer, sealed: bytes | None = None
) -> None:
    """Store the answer beside the claimed key."""
    this = {"of_account": account_id, "of_key": key.key_hash}
    done = {"state": "done", "status": answer.status, "body": encode(answer.storable), "sealed": sealed}
    await transaction.execute(_COMPLETE, {**this, **done})


def stored_answer(row: Row[tuple[object, ...]]) -> Answer:
    """The answer that a completed row holds; a 409 :class:`~app.errors.Problem` if it was purged."""
    body, status = row._mapping["body"], row._mapping["status"]
    if not isinstance(body, bytes) or not isinstance(status, int):
        raise Problem(IDEMPOTENCY_EXPIRED, "the answer is no longer kept; use a new Idempotency-Key")
    return Answer(status, msgspec.Raw(body), REPLAYED)


async def write_once(
    database: Database,
    account_id: UUID,
    key: IdempotencyKey | None,
    now: Instant,
    work: Callable[[Transaction], Awaitable[Answer]],
    sealing: Sealing | None = None,
) -> Response:
    """Do ``work`` in one transaction; with a key, at most once, and its answer is stored in the same transaction.

    A refusal by 402 or 422 is stored as well, after what the work had done is rolled back. ``sealing`` is needed where
    answers hold secrets: they are stored sealed, and are null in answers given again when the seal is gone.
    """
    async with keyed_transaction(database, account_id, key) as transaction:
        if key is None:
            return (await work(transaction)).response()
        row = await claim(transaction, account_id, key, now)
        if row is not None:
            return _opened(row, key, sealing, now).response()
        try:
            async with transaction.begin_nested():
                answer = await work(transaction)
        except Problem as problem:
            if problem.status not in STORED_REFUSALS:
                raise
            answer = Answer(problem.status, problem_document(problem))
            await complete(transaction, account_id, key, answer)
            refused: Problem | None = problem
        else:
            refused = None
            kept = (
                replace(answer, content={**answer.content, **dict.fromkeys(answer.secrets)})
                if answer.secrets
                else answer
            )
            await complete(transaction, account_id, key, kept, _sealed(answer, key, sealing))
    if refused is not None:
        raise refused
    return answer.response()


def _sealed(answer: Answer, key: IdempotencyKey, sealing: Sealing | None) -> bytes | None:
    if not answer.secrets:
        return None
    if sealing is None:
        raise TypeError("an answer that holds secrets cannot be stored without sealing them")
    return seal(sealing.keys, key.raw, encode(answer.secrets), sealing.randomness)


def _opened(row: Row[tuple[object, ...]], key: IdempotencyKey, sealing: Sealing | None, now: Instant) -> Answer:
    """The stored answer with its secrets, or with null for each when they are no longer given."""
    answer = stored_answer(row)
    if sealing is None or answer.status >= 400:
        return answer
    sealed, made = row._mapping["sealed"], cast("Instant", row._mapping["created_at"])
    opened = None
    if isinstance(sealed, bytes) and now < made + SEALED_FOR:
        opened = unseal(sealing.keys, key.raw, sealed)
    secrets = {} if opened is None else msgspec.json.decode(opened, type=dict[str, str])
    members: dict[str, msgspec.Raw] = msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])
    return replace(answer, content=members, secrets=secrets)


async def purge(database: Database, now: Instant) -> int:
    """Forget answers that were kept long enough, and sealed parts an hour after they were made; how many rows.

    The keys' hashes stay: an effect is never had again under an old key.
    """
    return await _purge(database, _expired(now)) + await _purge(database, _opened_long_ago(now))


def _expired(now: Instant) -> Update:
    old = (
        select(idempotency.c.account_id, idempotency.c.key_hash)
        .where(idempotency.c.purge_at <= now, idempotency.c.state != PURGED)
        .limit(PURGE_BATCH)
    )
    return (
        update(idempotency)
        .where(tuple_(idempotency.c.account_id, idempotency.c.key_hash).in_(old))
        .values(state=PURGED, status=None, body=None, sealed=None)
    )


def _opened_long_ago(now: Instant) -> Update:
    old = (
        select(idempotency.c.account_id, idempotency.c.key_hash)
        .where(idempotency.c.sealed.is_not(None), idempotency.c.created_at <= now - SEALED_FOR)
        .limit(PURGE_BATCH)
    )
    return (
        update(idempotency).where(tuple_(idempotency.c.account_id, idempotency.c.key_hash).in_(old)).values(sealed=None)
    )


async def _purge(database: Database, statement: Update) -> int:
    """In short transactions, so that no request waits for long."""
    done = 0
    while True:
        async with database.transaction() as transaction:
            changed = (await transaction.execute(statement)).rowcount
        done += changed
        if changed < PURGE_BATCH:
            return done
