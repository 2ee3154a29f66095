"""All that a session's charge depends on, loaded from what is stored."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row

from app.core.alignment import Pull, latest
from app.core.charge import ENGINE_VERSION, Charge, Evidence
from app.core.engines import engine_of
from app.core.lossless_json import dumps
from app.core.packing import unpack_instants
from app.core.rate_card import RateCard
from app.core.settlement import Accepted, contradictions
from app.core.timeline import Timeline, normalise, unusable
from app.core.units import Instant, Micros
from app.db.database import Transaction
from app.pricing.cards import card_by_id
from app.pricing.documents import write_rate_card
from app.sessions.heartbeats import load_heartbeats
from app.sessions.records import Session
from app.timelines.snapshots import Snapshot, closed_values, load_snapshots, values_digest

_NOTHING = Timeline((), Micros(0), frozenset())

UNREADABLE: Final = (zlib.error, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, RecursionError)
"""What reading rows that somebody has tampered with can raise."""


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """The evidence, and the snapshot that is rated (null: none was pulled yet)."""

    evidence: Evidence
    rated: Snapshot | None
    last_n: int
    """The number of the last snapshot in it, which need not be the one that is rated; 0 if there is none."""
    accepted_snapshot: int | None = None
    """The number of the snapshot with which a person accepted evidence that contradicts itself; null: none was."""
    accepted: Accepted | None = None
    """What was accepted with it, if it plays a part in this evidence."""
    engine_version: str = ENGINE_VERSION

    def charge(self) -> Charge:
        """What it comes to. Raises :class:`~app.core.engines.UnknownEngine`."""
        return engine_of(self.engine_version)(self.evidence)

    def contradictions(self, rated: Charge) -> list[str]:
        """Why a person must look at what the evidence came to; none of it was accepted."""
        dropped = unusable(self.rated.values) if self.rated is not None and self.accepted is not None else Counter()
        pulls, accepted = self.evidence.pulls, self.accepted
        return contradictions(rated.anomalies, pulls=pulls, unusable=dropped, accepted=accepted)


async def card_of_session(transaction: Transaction, session: Session, other: UUID | None = None) -> RateCard:
    """The card that the session started with, or another one, with what was pinned for the session alone."""
    stored = await card_by_id(transaction, session.rate_card_id if other is None else other)
    if stored is None:
        raise RuntimeError("a session's rate card is gone")
    return pinned(stored.card, session)


def pinned(card: RateCard, session: Session) -> RateCard:
    """The card with what was pinned for the session alone, as it is rated by it."""
    return card if session.charge_from is None else replace(card, charge_from=session.charge_from)


async def load_evidence(
    transaction: Transaction, session: Session, *, interim: bool, snapshots: Sequence[Snapshot] | None = None
) -> StoredEvidence:
    """The evidence as it stands now."""
    found = list(snapshots) if snapshots is not None else await load_snapshots(transaction, session.key)
    heartbeats = (await load_heartbeats(transaction, [session]))[session.id]
    card = await card_of_session(transaction, session)
    return _assemble(session, card, heartbeats, found, interim=interim, accepted=session.accepted_snapshot)


async def load_charged_evidence(
    transaction: Transaction, session: Session, row: Row[Any], snapshots: Sequence[Snapshot] | None = None
) -> StoredEvidence:
    """The evidence of a stored charge exactly as it was, with the engine that made it.

    ``snapshots``: those of the session, if they are loaded already, with or without later ones.
    """
    if snapshots is None:
        snapshots = await load_snapshots(transaction, session.key, up_to=row.snapshot_n)
    return charged_evidence(session, await card_of_session(transaction, session, row.rate_card_id), row, snapshots)


def charged_evidence(session: Session, card: RateCard, row: Row[Any], snapshots: Sequence[Snapshot]) -> StoredEvidence:
    """The same of what is loaded already; ``card``: that of the charge, with what was pinned for the session."""
    found = [snapshot for snapshot in snapshots if snapshot.n <= row.snapshot_n]
    ticks = unpack_instants(row.ticks)
    stored = _assemble(session, card, ticks, found, interim=False, accepted=row.accepted_snapshot)
    return replace(stored, engine_version=row.engine_version)


async def load_new_evidence(
    transaction: Transaction, session: Session, charged_snapshot: int, rate_card_id: UUID | None
) -> StoredEvidence:
    """The evidence for rating a charged session again: everything that came since as well.

    Pulls after the charged one are left out from where they differ in nothing but the last silence: that is no news.
    """
    found = await load_snapshots(transaction, session.key)
    news = charged_snapshot
    for before, after in pairwise(found):
        if after.n > charged_snapshot and closed_values(before.values) != closed_values(after.values):
            news = after.n
    heartbeats = (await load_heartbeats(transaction, [session]))[session.id]
    card = await card_of_session(transaction, session, rate_card_id)
    found = [item for item in found if item.n <= max(news, 1)]
    return _assemble(session, card, heartbeats, found, interim=False, accepted=session.accepted_snapshot)


def _assemble(
    session: Session,
    card: RateCard,
    heartbeats: Sequence[Instant],
    found: Sequence[Snapshot],
    *,
    interim: bool,
    accepted: int | None,
) -> StoredEvidence:
    # Without a pull the timeline is as good as empty: nothing is billed, and the start is the origin.
    pulls = [snapshot.pull for snapshot in found] or [
        Pull(session.requested_at, session.requested_at, Micros(0), Micros(0))
    ]
    rated = found[latest(pulls)] if found else None
    evidence = Evidence(
        requested_at=session.requested_at,
        time_limit=session.time_limit,
        heartbeats=heartbeats,
        pulls=pulls,
        timeline=normalise(rated.values) if rated is not None else _NOTHING,
        card=card,
        authorized=session.authorized,
        interim=interim,
        accepted=next((i for i, item in enumerate(found) if item.n == accepted), 0),
    )
    settled = next((item for item in found if item.n == accepted), None)
    return StoredEvidence(
        evidence,
        rated,
        found[-1].n if found else 0,
        accepted,
        None if settled is None else Accepted(evidence.accepted, unusable(settled.values)),
    )


def evidence_digest(stored: StoredEvidence) -> bytes:
    """SHA-256 over every input of the charge and the engine's version. How often a heartbeat is there is none."""
    return hashlib.sha256(stored_inputs(stored).encode()).digest()


def stored_inputs(stored: StoredEvidence) -> str:
    """The inputs of a charge as the digest of its evidence is made of them: JSON in one form."""
    values = None if stored.rated is None else stored.rated.values
    return inputs_text(stored.evidence, values, stored.engine_version, stored.accepted_snapshot)


def inputs_text(
    evidence: Evidence, values: Sequence[Any] | None, engine_version: str, accepted_snapshot: int | None = None
) -> str:
    """The same of evidence that need not be stored; ``values``: of the snapshot that is rated; null: there is none."""
    content = {
        "engine": engine_version,
        "requested_at": evidence.requested_at,
        "time_limit": evidence.time_limit,
        "heartbeats": sorted(set(evidence.heartbeats)),
        "pulls": [list(pull) for pull in evidence.pulls],
        "values": None if values is None else values_digest(values).hex(),
        "rate_card": {name: str(value) for name, value in _flat(write_rate_card(evidence.card))},
        "authorized": evidence.authorized,
    }
    if accepted_snapshot is not None:
        content["accepted_snapshot"] = accepted_snapshot
    return dumps(content)


def _flat(document: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for name, value in document.items():
        if isinstance(value, dict):
            flat.extend(_flat(value, f"{prefix}{name}."))
        else:
            flat.append((prefix + name, value))
    return flat
