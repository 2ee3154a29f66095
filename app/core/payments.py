"""What is known of a payment, in whatever order it was told, and what of its credits has to go back.

A provider of payments tells what happened by events that may come twice, late and in any order. So what is known only
ever grows: merging is commutative, associative and idempotent, and what follows from it is the same whatever came
first. Money is a whole number of the currency's smallest unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from fractions import Fraction
from typing import Final

from app.core.units import MAX_AMOUNT, MICROCREDITS_PER_CREDIT, MicroCredits

_ZERO_DECIMALS: Final = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
)
_THREE_DECIMALS: Final = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))


def decimals_of(currency: str) -> int:
    """How many decimals the smallest unit of a currency (lower case) is of its unit, as Stripe counts amounts.

    Of ISK and UGX, which have no smaller unit, it counts hundredths all the same.
    """
    if currency in _ZERO_DECIMALS:
        return 0
    return 3 if currency in _THREE_DECIMALS else 2


class Stage(IntEnum):
    """How far a dispute is; it never goes back."""

    INQUIRY = 0
    """Somebody asks; no money has moved."""
    OPEN = 1
    """The money was taken back from the seller until it is decided."""
    DECIDED = 2


@dataclass(frozen=True, slots=True, order=True)
class Dispute:
    """``at``: when the provider said so, in seconds since 1970; of two decisions the later one counts, and of two at
    once the one for the customer, who keeps the credits. ``kept``: the seller has the money."""

    stage: Stage
    at: int
    kept: bool
    amount: int
    currency: str

    @property
    def taken(self) -> int:
        """How much went back to whoever paid."""
        return 0 if self.kept or self.stage is Stage.INQUIRY else self.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """``amount`` > 0 in the smallest unit of ``currency``; ``credits`` and ``user_id`` as far as they were told."""

    amount: int
    currency: str
    user_id: str | None
    credits: MicroCredits | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of one payment. ``paid`` null: that it was paid is not known.

    ``refunded`` of ``charged``: what was given back, of the whole charge, both in the charge's currency.
    """

    paid: Paid | None = None
    charged: int = 0
    refunded: int = 0
    disputes: Mapping[str, Dispute] = field(default_factory=dict)

    def merge(self, other: "Known") -> "Known":
        """All that is known of it. That it was paid can be told once only: told again, it is told the same."""
        disputes = dict(self.disputes)
        for name, told in other.disputes.items():
            disputes[name] = max(told, disputes[name]) if name in disputes else told
        return replace(
            self,
            paid=self.paid or other.paid,
            charged=max(self.charged, other.charged),
            refunded=max(self.refunded, other.refunded),
            disputes=disputes,
        )

    @property
    def returned(self) -> Fraction:
        """The part of the payment, from 0 to 1, that whoever paid has back; 0 while it is not known to be paid."""
        if self.paid is None:
            return Fraction(0)
        refunded = Fraction(self.refunded, self.charged) if self.charged else Fraction(0)
        comparable = [one.taken for one in self.disputes.values() if one.currency == self.paid.currency]
        disputed = Fraction(sum(comparable), self.paid.amount)
        return min(Fraction(1), refunded + disputed)

    @property
    def incomparable(self) -> bool:
        """Whether money went back of which nobody can say what part of the payment it is: it is in another currency."""
        if self.paid is None:
            return False
        return any(one.taken and one.currency != self.paid.currency for one in self.disputes.values())

    def owed(self, granted: MicroCredits) -> MicroCredits:
        """How many of the ``granted`` credits have to go back altogether: in proportion, rounded for the customer."""
        part = self.returned
        return MicroCredits(granted * part.numerator // part.denominator)


def credits_at(rate: MicroCredits, amount: int) -> MicroCredits | None:
    """Credits for an amount of money, at ``rate`` a smallest unit: exact. Null: more than a grant can have."""
    total = MicroCredits(rate * amount)
    return total if total <= MAX_AMOUNT else None


def cost_basis(paid: Paid, granted: MicroCredits) -> int | None:
    """Money a credit, in millionths of the currency's unit, half even; null: more than can be written down."""
    smallest_units = 10 ** decimals_of(paid.currency)
    basis = round(Fraction(paid.amount * MICROCREDITS_PER_CREDIT * 1_000_000, granted * smallest_units))
    return basis if basis <= MAX_AMOUNT else None


def step(*, owed: MicroCredits, taken: MicroCredits, lost: MicroCredits) -> MicroCredits:
    """What to take now (> 0) or give again (< 0) so that ``owed`` has gone back.

    ``taken``: what was taken for it so far; ``lost``: what of the grant has expired or was voided, which nobody has to
    give back a second time. What was lost is not given again when less is owed later.
    """
    if taken > owed:
        return MicroCredits(owed - taken)
    return MicroCredits(max(0, owed - taken - lost))
