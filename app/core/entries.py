"""Entries before they have their place in the chain: what an account posts, and how its legs are named."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from app.core.chain import Posting
from app.core.units import MicroCredits

CREDIT: Final = "credit"
"""The user's side of debt: 0 or less, as postings have it."""
CONSUMED: Final = "consumed"
EXPIRED: Final = "expired"
VOIDED: Final = "voided"
ADJUSTED: Final = "adjusted"


class EntryKind(StrEnum):
    GRANT = "grant"
    CHARGE = "charge"
    EXPIRY = "expiry"
    REPAYMENT = "repayment"
    """Debt repaid from credits that were set free or given back; the balance stays as it is."""
    VOID = "void"
    ADJUSTMENT = "adjustment"
    """A correction by hand, either way; credits that it gives are a grant of their own."""
    REFUND = "refund"
    RERATE = "rerate"
    """The difference that new evidence or another rate card makes to a posted charge, either way."""


@dataclass(frozen=True, slots=True)
class FundingDraft:
    """Who paid how much of a debit; ``debit_entry_id`` null: of the entry that this belongs to.

    A negative amount is given back of what was paid. In an entry that opens a grant it goes to that grant; else to
    where it came from.
    """

    debit_entry_id: UUID | None
    grant_id: UUID | None
    amount: MicroCredits


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDraft:
    """An entry before it has its place in the chain. ``natural_key`` is derived from its cause and never used twice.

    An entry with a ``grant_id`` and a positive amount opens that grant, and bears its ``terms``.
    """

    kind: EntryKind
    natural_key: str
    amount: MicroCredits
    postings: tuple[Posting, ...]
    funding: tuple[FundingDraft, ...] = ()
    session_id: UUID | None = None
    grant_id: UUID | None = None
    reverses: UUID | None = None
    reason: str | None = None
    reference: str | None = None
    terms: Mapping[str, Any] | None = None
    charge_digest: bytes | None = None


def legs(amounts: Mapping[str, int]) -> tuple[Posting, ...]:
    """The postings of an entry; legs of 0 are left out."""
    return tuple(Posting(name, MicroCredits(amount)) for name, amount in amounts.items() if amount)
