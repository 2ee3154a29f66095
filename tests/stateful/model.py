"""What a ledger should do, in plain lists and whole numbers: nothing of it comes from the product.

Amounts are micro-credits, instants microseconds. Every operation is one transaction at ``now``: it posts what time has
brought, then does its own. Refusals raise :class:`Refused`; whoever calls puts the model back then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

NEVER = 1 << 62


class Refused(Exception):
    """What was asked for is against the rules; the code of the problem says which."""


@dataclass(eq=False)
class Lot:
    """A grant. ``id`` is taken from the product, to compare by and as the last resort of the burn order."""

    id: UUID
    paid: bool
    priority: int
    amount: int
    effective: int
    expires: int | None
    created: int
    remaining: int
    state: str = "scheduled"
    announced: bool = False


@dataclass(eq=False)
class Part:
    """An amount that stands on a lot or, where that is null, on credit."""

    lot: Lot | None
    amount: int


@dataclass(eq=False)
class Debit:
    """``seq`` of its entry; what is still owed of it, what it took from lots, and what lots repaid of it since."""

    seq: int
    owed: int
    drawn: list[Part]
    repaid: list[Part] = field(default_factory=list)

    @property
    def left(self) -> int:
        """What can still be given back."""
        return self.owed + sum(part.amount for part in (*self.drawn, *self.repaid))


@dataclass(eq=False)
class Session:
    id: UUID
    state: str
    authorized: int
    speech: int = 0
    parts: list[Part] = field(default_factory=list)
    hold_state: str = "active"
    debits: list[Debit] = field(default_factory=list)
    gross: int = 0
    """What it is charged now, refunds left aside."""
    cards: list[int] = field(default_factory=list)
    """The factors of the cards that it was rated with, the last one counts."""
    written_off: bool = False

    @property
    def held(self) -> int:
        return sum(part.amount for part in self.parts)


@dataclass(frozen=True)
class Entry:
    """``paid_by``: seq of the debit, id of the lot (null: credit), amount; negative where it is given back."""

    seq: int
    kind: str
    amount: int
    balance_after: int
    at: int
    session: UUID | None
    lot: UUID | None
    reverses: int | None
    paid_by: tuple[tuple[int, UUID | None, int], ...]

    def __deepcopy__(self, _: object) -> "Entry":
        return self


class Model:
    """One account."""

    def __init__(self) -> None:
        self.now = 0
        self.limit = 0
        self.lots: list[Lot] = []
        self.sessions: list[Session] = []
        self.debits: list[Debit] = []
        self.entries: list[Entry] = []
        self.booked: int | None = None
        self.known: list[tuple[int, int, int, int]] = []
        """Since when an account had which balance, holds and limit, in the order of booking."""
        self._before = 0
        self._changed = False

    # What it comes to

    @property
    def debt(self) -> int:
        return sum(debit.owed for debit in self.debits)

    @property
    def balance(self) -> int:
        return sum(lot.remaining for lot in self.lots if lot.state != "scheduled") - self.debt

    @property
    def held(self) -> int:
        return sum(session.held for session in self.sessions)

    @property
    def available(self) -> int:
        return self.balance + self.limit - self.held

    def held_of(self, lot: Lot | None) -> int:
        return sum(part.amount for session in self.sessions for part in session.parts if part.lot is lot)

    def free_of(self, lot: Lot) -> int:
        """What can be taken of it now."""
        return lot.remaining - self.held_of(lot) if lot.state == "active" else 0

    @property
    def next_due(self) -> int | None:
        coming = [lot.effective for lot in self.lots if lot.state == "scheduled"]
        coming += [
            lot.expires
            for lot in self.lots
            if lot.expires is not None and (lot.state == "scheduled" or self.free_of(lot))
        ]
        return min(coming, default=None)

    def at(self, instant: int) -> tuple[int, int, int]:
        """Balance, holds and limit as they were booked by ``instant``."""
        last = (0, 0, 0)
        for since, *amounts in self.known:
            if since <= instant:
                last = (amounts[0], amounts[1], amounts[2])
        return last

    # One transaction

    def begin(self) -> None:
        """What time has brought: in the order of its instants, effect before expiry."""
        self._before, self._changed = len(self.entries), False
        due = []
        for lot in self.lots:
            if lot.state == "scheduled" and lot.effective <= self.now:
                due.append((lot.effective, 0, lot.id, lot))
            if (
                lot.state in {"scheduled", "active"}
                and lot.remaining
                and lot.expires is not None
                and lot.expires <= self.now
            ):
                due.append((lot.expires or 0, 1, lot.id, lot))
        for _, expires, _, lot in sorted(due, key=lambda item: item[:3]):
            if expires:
                lot.state = "expired"
                self._sweep(lot, None)
            else:
                self._open(lot, "grant")

    def end(self) -> None:
        """Entries, changes of holds and of the limit are booked; nothing else is."""
        if self._changed or len(self.entries) > self._before:
            self.booked = self._booking
            self.known.append((self._booking, self.balance, self.held, self.limit))

    def run_job(self) -> None:
        """Post what is due, and announce lots that run out (all of them do, within days), each once."""
        due = self.next_due is not None and self.next_due <= self.now
        ending = [lot for lot in self.lots if lot.state == "active" and lot.remaining and lot.expires is not None]
        if due or any(not lot.announced and (lot.expires or 0) > self.now for lot in ending):
            self.begin()
            self.end()
            for lot in self.lots:
                lot.announced |= lot.state == "active" and lot.remaining > 0 and lot.expires is not None

    def change_limit(self, limit: int) -> None:
        self._changed |= limit != self.limit
        self.limit = limit

    @property
    def _booking(self) -> int:
        return self.now if self.booked is None else max(self.now, self.booked)

    def _post(
        self,
        kind: str,
        amount: int,
        *,
        session: Session | None = None,
        lot: Lot | None = None,
        reverses: int | None = None,
        paid_by: Iterable[tuple[int, Lot | None, int]] = (),
    ) -> None:
        before = self.entries[-1].balance_after if self.entries else 0
        self.entries.append(
            Entry(
                seq=len(self.entries) + 1,
                kind=kind,
                amount=amount,
                balance_after=before + amount,
                at=self._booking,
                session=None if session is None else session.id,
                lot=None if lot is None else lot.id,
                reverses=reverses,
                paid_by=tuple((seq, None if of is None else of.id, paid) for seq, of, paid in paid_by if paid),
            )
        )

    # Lots

    def burn_order(self) -> list[Lot]:
        def place(lot: Lot) -> tuple[int, int, bool, int, int, UUID]:
            expires = NEVER if lot.expires is None else lot.expires
            return lot.priority, expires, lot.paid, lot.effective, lot.created, lot.id

        return sorted(self.lots, key=place)

    def give(self, lot: Lot, kind: str = "grant") -> None:
        self.lots.append(lot)
        if lot.effective <= self.now:
            self._open(lot, kind)

    def _open(
        self,
        lot: Lot,
        kind: str,
        *,
        session: Session | None = None,
        reverses: int | None = None,
        paid_by: Iterable[tuple[int, Lot | None, int]] = (),
    ) -> None:
        """From now on it counts; it repays debt first, by the same entry."""
        lot.state = "active"
        repaid = self._repay([lot])
        self._post(kind, lot.amount, session=session, lot=lot, reverses=reverses, paid_by=[*paid_by, *repaid])

    def _repay(self, lots: list[Lot]) -> list[tuple[int, Lot | None, int]]:
        """The oldest debt first, from what is free, in burn order."""
        done: list[tuple[int, Lot | None, int]] = []
        for debit in self.debits:
            for lot in lots:
                amount = min(debit.owed, self.free_of(lot))
                if amount:
                    debit.owed -= amount
                    debit.repaid.append(Part(lot, amount))
                    lot.remaining -= amount
                    done.append((debit.seq, lot, amount))
        return done

    def _sweep(self, lot: Lot, session: Session | None) -> int:
        """Take what a closed lot may not keep: all that no session holds."""
        gone = lot.remaining - self.held_of(lot)
        if gone:
            lot.remaining -= gone
            self._post("void" if lot.state == "voided" else "expiry", -gone, session=session, lot=lot)
        return gone

    def _set_free(self, lots: Iterable[Lot], session: Session | None) -> None:
        """Credits were set free: closed lots lose theirs, the others repay debt."""
        for lot in lots:
            if lot.state in {"expired", "voided"}:
                self._sweep(lot, session)
        repaid = self._repay(self.burn_order())
        if repaid:
            self._post("repayment", 0, session=session, paid_by=repaid)

    def void(self, lot: Lot) -> int:
        if lot.state in {"expired", "voided"}:
            raise Refused("grant-closed")
        if not lot.remaining:
            raise Refused("grant-spent")
        gone = 0 if lot.state == "scheduled" else lot.remaining - self.held_of(lot)
        lot.remaining = 0 if lot.state == "scheduled" else lot.remaining - gone
        lot.state = "voided"
        self._post("void", -gone, lot=lot)  # of 0 as well: that it is closed is on record
        return gone

    # Holds

    def hold(self, session: Session) -> None:
        left = session.authorized
        parts = []
        for lot in self.burn_order():
            taken = min(left, self.free_of(lot))
            if taken:
                parts.append(Part(lot, taken))
                left -= taken
        if left:
            parts.append(Part(None, left))
        session.parts = parts
        self.sessions.append(session)
        self._changed = True

    def lower(self, session: Session, target: int) -> None:
        """Free from the end, so credit first."""
        excess = session.held - target
        if session.hold_state != "active" or excess <= 0:
            return
        touched = [part.lot for part in session.parts if part.lot is not None and part.amount]
        for part in reversed(session.parts):
            freed = min(excess, part.amount)
            part.amount -= freed
            excess -= freed
        self._changed = True
        self._set_free(touched, session)

    def release(self, session: Session) -> None:
        self._set_free(self._resolve(session, "released"), session)

    def _resolve(self, session: Session, state: str) -> list[Lot]:
        """End a hold that is active; the lots that it held of."""
        touched = [part.lot for part in session.parts if part.lot is not None and part.amount]
        if session.hold_state == "active":
            session.hold_state = state
            self._changed = True
        for part in session.parts:
            part.amount = 0
        return touched

    # Debits

    def _draw(self, amount: int, held: list[Part]) -> tuple[list[Part], int]:
        """Where a debit is taken from, ``held`` first; and what nothing can pay."""
        taken: dict[Lot | None, int] = {}
        left = amount

        def take(lot: Lot, share: int) -> int:
            if share:  # what gave nothing has no place in the order
                taken[lot] = taken.get(lot, 0) + share
            return share

        for part in held:
            if part.lot is not None:
                left -= take(part.lot, min(left, part.amount))
        for lot in self.burn_order():
            left -= take(lot, min(left, self.free_of(lot)))
        own_credit = sum(part.amount for part in held if part.lot is None)
        share = min(left, own_credit + max(0, self.limit - self.debt - self.held_of(None)))
        taken[None] = share
        return [Part(lot, part) for lot, part in taken.items() if part], left - share

    def _debit(self, parts: list[Part], kind: str, session: Session | None, reverses: int | None = None) -> None:
        amount = sum(part.amount for part in parts)
        if not amount:
            return
        seq = len(self.entries) + 1
        for part in parts:
            if part.lot is not None:
                part.lot.remaining -= part.amount
        owed = sum(part.amount for part in parts if part.lot is None)
        debit = Debit(seq, owed, [Part(part.lot, part.amount) for part in parts if part.lot is not None])
        self.debits.append(debit)
        if session is not None:
            session.debits.append(debit)
        paid_by = [(seq, part.lot, part.amount) for part in parts]
        self._post(kind, -amount, session=session, reverses=reverses, paid_by=paid_by)

    def settle(self, session: Session, wanted: int) -> int:
        """The one charge, up to what was authorized; what it came to."""
        parts, _ = self._draw(min(wanted, session.authorized), session.parts)
        touched = self._resolve(session, "settled")
        self._debit(parts, "charge", session)
        self._set_free(touched, session)
        session.state = "settled"
        session.gross = sum(part.amount for part in parts)
        return session.gross

    def adjust_down(self, amount: int, *, below_floor: bool) -> None:
        parts, missing = self._draw(amount, [])
        if missing and not below_floor:
            raise Refused("below-floor")
        on_credit = missing + sum(part.amount for part in parts if part.lot is None)
        kept = [part for part in parts if part.lot is not None]
        self._debit([*kept, *([Part(None, on_credit)] if on_credit else [])], "adjustment", None)

    # Giving back

    def give_back(self, session: Session, amount: int, kind: str, goodwill: Lot) -> bool:
        """Owed credit first, then what repaid debt, then what was drawn, each from the last; whether ``goodwill``, a
        lot without an amount, was needed for what belonged to lots that ran out."""
        if amount > sum(debit.left for debit in session.debits):
            raise Refused("refund-exceeds-charge")
        latest = session.debits[::-1]
        returned: dict[int, list[Part]] = {debit.seq: [] for debit in latest}
        lost: list[tuple[int, Lot | None, int]] = []
        touched: list[Lot] = []
        left = amount
        for debit in latest:
            back = min(left, debit.owed)
            debit.owed -= back
            left -= back
            returned[debit.seq].append(Part(None, back))
        for paid in [(d.seq, d.repaid) for d in latest] + [(d.seq, d.drawn) for d in latest]:
            seq, parts = paid
            for part in reversed(parts):
                assert part.lot is not None
                back = min(left, part.amount)
                part.amount -= back
                left -= back
                if not back:
                    continue
                ran_out = part.lot.expires is not None and part.lot.expires <= self.now
                if part.lot.state == "expired" or (ran_out and part.lot.state != "voided"):
                    lost.append((seq, part.lot, -back))
                else:
                    part.lot.remaining += back
                    returned[seq].append(Part(part.lot, back))
                    touched.append(part.lot)
        for debit in latest:
            parts = returned[debit.seq]
            total = sum(part.amount for part in parts)
            if total:
                paid_by = [(debit.seq, part.lot, -part.amount) for part in parts]
                self._post(kind, total, session=session, reverses=debit.seq, paid_by=paid_by)
        self._set_free(touched, session)
        if not lost:
            return False
        goodwill.amount = goodwill.remaining = -sum(amount for _, _, amount in lost)
        self.lots.append(goodwill)
        self._open(goodwill, kind, session=session, reverses=lost[0][0], paid_by=lost)
        return True

    def rerate(self, session: Session, factor: int, goodwill: Lot) -> bool | None:
        """Rate again with the card of ``factor``; null if that is no news, else as :meth:`give_back`."""
        if session.written_off:
            raise Refused("session-written-off")
        if factor == session.cards[-1]:
            return None
        if factor in session.cards:
            raise Refused("already-rated")
        session.cards.append(factor)
        difference = min(session.speech * factor, session.authorized) - session.gross
        if difference > 0:
            parts, missing = self._draw(min(difference, session.authorized - session.gross), [])
            first = session.debits[0].seq if session.debits else None
            self._debit(parts, "rerate", session, first)
            session.gross += difference - missing
            return False
        amount = min(-difference, sum(debit.left for debit in session.debits))
        session.gross -= amount
        return bool(amount) and self.give_back(session, amount, "rerate", goodwill)
