"""The chain of an account's entries: each entry's MAC covers its content and the MAC before it.

The key lies outside the database, so whoever can write rows cannot make entries that fit the chain.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.core.units import Instant, MicroCredits


@dataclass(frozen=True, slots=True)
class Posting:
    """One leg of an entry. The legs of an entry sum to 0; a user's credits are the positive side."""

    ledger_account: str
    amount: MicroCredits


@dataclass(frozen=True, slots=True)
class Funding:
    """Who paid ``amount`` (> 0) of the debit ``debit_entry_id``: a grant or, where null, the user's credit."""

    debit_entry_id: UUID
    grant_id: UUID | None
    amount: MicroCredits


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry with all that its MAC covers."""

    account_id: UUID
    id: UUID
    seq: int
    natural_key: str
    kind: str
    amount: MicroCredits
    balance_after: MicroCredits
    session_id: UUID | None
    grant_id: UUID | None
    reverses: UUID | None
    reason: str | None
    reference: str | None
    created_at: Instant
    postings: Sequence[Posting]
    funding: Sequence[Funding]
    terms: Mapping[str, Any] | None
    """The terms of the grant that the entry opens."""
    charge_digest: bytes | None
    """The digest of the evidence of the charge that the entry posts."""
    key_id: str


def mac(entry: Entry, previous: bytes | None, key: bytes) -> bytes:
    """HMAC-SHA-256 over :func:`signed_text`."""
    return hmac.new(key, signed_text(entry, previous).encode("ascii"), hashlib.sha256).digest()


def signed_text(entry: Entry, previous: bytes | None) -> str:
    """The entry's canonical form and the previous entry's MAC (null for the first): what its MAC is made of."""
    content = {
        "account": entry.account_id.hex,
        "id": entry.id.hex,
        "seq": entry.seq,
        "natural_key": entry.natural_key,
        "kind": entry.kind,
        "amount": entry.amount,
        "balance_after": entry.balance_after,
        "session": _hex(entry.session_id),
        "grant": _hex(entry.grant_id),
        "reverses": _hex(entry.reverses),
        "reason": entry.reason,
        "reference": entry.reference,
        "created_at": entry.created_at,
        "postings": [[posting.ledger_account, posting.amount] for posting in entry.postings],
        "funding": [[line.debit_entry_id.hex, _hex(line.grant_id), line.amount] for line in entry.funding],
        "terms": None if entry.terms is None else dict(entry.terms),
        "charge": None if entry.charge_digest is None else entry.charge_digest.hex(),
        "key_id": entry.key_id,
        "previous": None if previous is None else previous.hex(),
    }
    return _canonical(content)


def grant_mac(account_id: UUID, terms: Mapping[str, Any], key: bytes) -> bytes:
    """HMAC-SHA-256 over a grant's terms: until a grant of the future is an entry, nothing else covers them."""
    return _mac({"account": account_id.hex, "grant_terms": dict(terms)}, key)


def limit_mac(account_id: UUID, n: int, credit_limit: MicroCredits, reason: str, at: Instant, key: bytes) -> bytes:
    """HMAC-SHA-256 over the ``n``-th change of an account's credit limit."""
    change = {"n": n, "credit_limit": credit_limit, "reason": reason, "at": at}
    return _mac({"account": account_id.hex, "limit_change": change}, key)


def _mac(content: Mapping[str, Any], key: bytes) -> bytes:
    return hmac.new(key, _canonical(content).encode("ascii"), hashlib.sha256).digest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _hex(value: UUID | None) -> str | None:
    return None if value is None else value.hex
