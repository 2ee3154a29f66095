"""The auditor's own charges: ``docs/charging.md`` painted onto an axis of microseconds.

A rule of §7 is a colour. All of them are painted from the last to the first, each over what lies there, so that of the
rules that claim a microsecond the first is the one that is seen. Proof of life (§6) is painted as well: each proof with
the gap after it that a neighbour may leave, and what stays bare is the time between two envelopes.

Times are whole microseconds: instants on our clock, or offsets from T0. Amounts are whole micro-credits; prices are
exact credits a minute.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import groupby, pairwise
from math import ceil, floor

SECOND = 1_000_000
MINUTE = 60 * SECOND
CREDIT = 1_000_000
SPEECH = ("user", "agent")
BILLED = ("user", "agent", "silence", "reduced")
REDUCED = "reduced"
BARE = "bare"


@dataclass(frozen=True, slots=True)
class Card:
    """A rate card (§9): credits a minute and credits, exact; microseconds.

    ``gap`` is G of §6. ``full_rate_first`` is none where silence is never reduced, ``maximum`` where nothing bounds the
    charge.
    """

    user: Fraction
    agent: Fraction
    silence: Fraction
    full_rate_first: int | None
    factor: Fraction
    initial: int
    subsequent: int
    scope: str
    fee: Fraction
    included: int
    exemption: int
    minimum_duration: int
    minimum: Fraction
    maximum: Fraction | None
    quantum: Fraction
    mode: str
    gap: int
    charge_from: str

    def price(self, label: str) -> Fraction:
        """Credits a minute of a billed label (§7.6, §7.7)."""
        prices = {"user": self.user, "agent": self.agent, "silence": self.silence, REDUCED: self.silence * self.factor}
        return prices[label]

    def lowest(self, labels: Iterable[str] = BILLED) -> Fraction:
        """The lowest price over 0 of these labels, in credits a minute; 0 if none has one (§8.3, §8.4)."""
        return min((price for label in labels if (price := self.price(label)) > 0), default=Fraction(0))


@dataclass(frozen=True, slots=True)
class Pull:
    """A snapshot (§3): when it was asked for and answered, and its segments as (type, seconds).

    The type is none where it is missing or no text, the seconds where the segment is a bad one.
    """

    requested_at: int
    received_at: int
    values: tuple[tuple[str | None, Fraction | None], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a session costs and why.

    ``amount`` and ``beyond`` (what the ceiling cut off) are micro-credits, ``origin`` is T0 (§5). ``billed`` always has
    user, agent, silence (at the full rate) and reduced; ``not_billed`` only the reasons that hold some time. Together
    they are ``sigma`` (§7). ``last_proof`` is the offset at which the last envelope ends (§6).
    """

    amount: int
    beyond: int
    origin: int
    sigma: int
    billed: Mapping[str, int]
    not_billed: Mapping[str, int]
    anomalies: frozenset[str]
    last_proof: int


class Axis:
    """The offsets from 0 to a length, in stretches of one label each."""

    def __init__(self, length: int, label: str = BARE) -> None:
        self.length = max(0, length)
        self._edges = [0, self.length] if self.length else [0]
        self._labels = [label] if self.length else []

    def paint(self, start: int, end: int, label: str) -> None:
        """Give [start, end) this label; what lies outside the axis is left out."""
        start, end = max(start, 0), min(end, self.length)
        if start >= end:
            return
        first = self._cut(start)
        last = self._cut(end)
        self._edges[first + 1 : last] = []
        self._labels[first:last] = [label]

    def _cut(self, at: int) -> int:
        """The place of this edge among the edges."""
        place = bisect_left(self._edges, at)
        if self._edges[place] != at:
            self._edges.insert(place, at)
            self._labels.insert(place, self._labels[place - 1])
        return place

    def stretches(self) -> Iterator[tuple[int, int, str]]:
        """Start, end and label of all that is alike, in order; a copy, so one may paint meanwhile."""
        pieces = [(*edges, label) for edges, label in zip(pairwise(self._edges), self._labels, strict=True)]
        for label, alike in groupby(pieces, key=lambda piece: piece[2]):
            row = list(alike)
            yield row[0][0], row[-1][1], label

    def lengths(self) -> dict[str, int]:
        """How much there is of each label that is to be seen."""
        found: dict[str, int] = {}
        for start, end, label in self.stretches():
            found[label] = found.get(label, 0) + end - start
        return found


@dataclass(frozen=True, slots=True)
class _Timeline:
    """A normalised timeline (§4): segments that last, as (type, start, end), and Σ."""

    segments: tuple[tuple[str | None, int, int], ...]
    sigma: int
    bad: bool

    def of(self, *types: str) -> list[tuple[int, int]]:
        return [(start, end) for kind, start, end in self.segments if kind in types]

    def unknown(self) -> list[tuple[int, int]]:
        return [(start, end) for kind, start, end in self.segments if kind not in {*SPEECH, "silence"}]

    def talk(self) -> int:
        return sum(end - start for start, end in self.of(*SPEECH))

    def open_from(self) -> int:
        """Where the silence at the end begins; Σ if the timeline ends in something else (§7.0)."""
        opened = self.sigma
        for kind, start, _ in reversed(self.segments):
            if kind != "silence":
                break
            opened = start
        return opened


# The rate card (§9)


def _exact(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal | Fraction):
        raise TypeError(f"not an exact number: {value!r}")
    return Fraction(value)


def _micros(value: object) -> int:
    """Seconds as microseconds; a card has no finer ones."""
    micros = _exact(value) * SECOND
    if micros.denominator != 1:
        raise ValueError(f"finer than a microsecond: {value!r}")
    return micros.numerator


def _group(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    group = document.get(name, {})
    if not isinstance(group, Mapping):
        raise TypeError(f"not an object: {name}")
    return group


def card_of(document: Mapping[str, object]) -> Card:
    """The card that a JSON document describes, with the defaults of §9 for what it leaves out.

    Credits and seconds may be ``int``, ``str``, ``Decimal`` or ``Fraction``. What a card must not say is for the API to
    refuse; here it raises ``KeyError``, ``TypeError`` or ``ValueError`` at most.
    """
    rates, silence = _group(document, "rates"), _group(document, "silence")
    increments, rounding = _group(document, "increments"), _group(document, "rounding")
    measurement = _group(document, "measurement")
    full_rate_first, maximum = silence.get("full_rate_first_s", 5), document.get("maximum_charge")
    interval = _micros(measurement.get("heartbeat_interval_s", 30))
    missed = _exact(measurement.get("missed_heartbeats_tolerated", 1))
    return Card(
        user=_exact(rates["user"]),
        agent=_exact(rates["agent"]),
        silence=_exact(rates["silence"]),
        full_rate_first=None if full_rate_first is None else _micros(full_rate_first),
        factor=_exact(silence.get("factor_after", 0)),
        initial=_micros(increments.get("initial_s", 0)),
        subsequent=_micros(increments.get("subsequent_s", 0)),
        scope=str(increments.get("scope", "session")),
        fee=_exact(document.get("connection_fee", 0)),
        included=_micros(document.get("included_s", 0)),
        exemption=_micros(document.get("short_session_exemption_s", 0)),
        minimum_duration=_micros(document.get("minimum_duration_s", 0)),
        minimum=_exact(document.get("minimum_charge", 0)),
        maximum=None if maximum is None else _exact(maximum),
        quantum=_exact(rounding.get("quantum", "0.000001")),
        mode=str(rounding.get("mode", "half_even")),
        gap=int(interval * (1 + missed)) + _micros(measurement.get("heartbeat_jitter_s", 15)),
        charge_from=str(measurement.get("charge_from", "origin")),
    )


# Timelines (§4)


def _timeline(values: Sequence[tuple[str | None, Fraction | None]]) -> _Timeline:
    segments: list[tuple[str | None, int, int]] = []
    reached, start, bad = Fraction(0), 0, False
    for kind, seconds in values:
        if seconds is None or not 0 <= seconds < 10**9:
            bad = True
            continue
        reached += Fraction(floor(seconds * 10**12), 10**12)
        end = floor(reached * SECOND)
        if end > start:
            segments.append((kind, start, end))
        start = end
    return _Timeline(tuple(segments), start, bad)


# Proof of life (§6)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What proves life: points of heartbeats in order, and speech; offsets that begin by the limit + G."""

    points: tuple[int, ...]
    speech: tuple[tuple[int, int], ...]

    def last(self) -> int:
        return max((0, *self.points, *(end for _, end in self.speech)))

    def gaps(self, gap: int) -> list[tuple[int, int]]:
        """The offsets [start, end) between two envelopes."""
        alive = Axis(self.last())
        for start, end in ((0, 0), *((point, point) for point in self.points), *self.speech):
            alive.paint(start, end + gap, "alive")
        return [(start - gap, end) for start, end, label in alive.stretches() if label == BARE]

    def unwitnessed(self, gap: int) -> bool:
        """Whether a run of speech has neither a heartbeat nor offset 0 within G of it, inclusive."""
        talk = Axis(self.last())
        for start, end in self.speech:
            talk.paint(start, end, "speech")
        witnesses = (0, *self.points)
        for start, end, label in talk.stretches():
            nearest = bisect_left(witnesses, start - gap)
            if label == "speech" and (nearest == len(witnesses) or witnesses[nearest] > end + gap):
                return True
        return False


def _charge_start(charge_from: str, evidence: _Evidence, timeline: _Timeline) -> int | None:
    """The offset from which time is charged, none if never (§7)."""
    candidates = {
        "origin": [0],
        "first_heartbeat": list(evidence.points),
        "first_speech": [start for start, _ in timeline.of(*SPEECH)],
        "first_user_speech": [start for start, _ in timeline.of("user")],
    }
    return min(candidates[charge_from], default=None)


# Paint (§7)


def _all_silent(card: Card, length: int, speech_ends: Iterable[int]) -> Axis:
    """An axis of silence alone (§7.6, §7.7), at its full rate for a while after offset 0 and each end of speech."""
    if card.full_rate_first is None:
        return Axis(length, "silence")
    axis = Axis(length, REDUCED if card.factor else "silence_cap")
    for end in (0, *speech_ends):
        axis.paint(end, end + card.full_rate_first, "silence")
    return axis


# Rate (§8)


def _up(card: Card, used: int) -> int:
    """Time of one increment rule as it is sold (§8.3)."""
    if card.subsequent == 0:
        return max(used, card.initial)
    return card.initial + ceil(Fraction(max(0, used - card.initial), card.subsequent)) * card.subsequent


def _rounded(card: Card, due: Fraction) -> Fraction:
    """Credits to a multiple of the card's quantum (§8.6)."""
    quanta = due / card.quantum
    match card.mode:
        case "up":
            return ceil(quanta) * card.quantum
        case "down":
            return floor(quanta) * card.quantum
        case "half_even":
            return round(quanta) * card.quantum
        case unknown:
            raise ValueError(f"no rounding mode: {unknown}")


def _rate(axis: Axis, card: Card) -> int:
    """The micro-credits of what is billed on the axis, before the ceiling (§8.1 to §8.7).

    What turns out to be exempt or included is painted over.
    """
    if sum(axis.lengths().get(label, 0) for label in BILLED) < card.exemption:
        for start, end, label in axis.stretches():
            if label in BILLED:
                axis.paint(start, end, "short_session")
        return 0

    left = card.included
    for start, end, label in axis.stretches():
        if label in BILLED and card.price(label) > 0:
            given = min(left, end - start)
            axis.paint(start, start + given, "included")
            left -= given

    lengths = axis.lengths()
    priced = {label: lengths.get(label, 0) for label in BILLED if card.price(label) > 0}
    charged = sum(priced.values())
    if charged == 0:
        return 0

    owed = sum((card.price(label) * used for label, used in priced.items()), Fraction(0))
    pools = [BILLED] if card.scope == "session" else [("user",), ("agent",), ("silence", REDUCED)]
    added = 0
    for pool in pools:
        used = sum(priced.get(label, 0) for label in pool)
        if used > 0:
            more = _up(card, used) - used
            owed += more * card.lowest(pool)
            added += more
    filled = max(0, card.minimum_duration - charged - added - (card.included - left))
    owed += filled * card.lowest()

    due = max(_rounded(card, owed / MINUTE + card.fee), card.minimum)
    if card.maximum is not None:
        due = min(due, card.maximum)
    micro = due * CREDIT
    if micro.denominator != 1:
        raise ValueError(f"finer than a micro-credit: {due}")
    return micro.numerator


# The charge


def charge(
    card: Card,
    *,
    requested_at: int,
    time_limit: int | None,
    heartbeats: Collection[int],
    pulls: Sequence[Pull],
    authorized: int | None,
    charge_from: str | None = None,
    interim: bool = False,
    accepted: int = 0,
) -> Verdict:
    """The charge of a session, §3 to §8; ``charge_from`` takes the place of the card's.

    ``accepted``: the first pull that counts for whether the timeline shrank.

    Instants and the limit are microseconds, ``authorized`` micro-credits. There is at least one pull.
    """
    timelines = [_timeline(pull.values) for pull in pulls]
    rated = max(range(len(pulls)), key=lambda k: (pulls[k].received_at, pulls[k].requested_at, k))
    received_at, timeline = pulls[rated].received_at, timelines[rated]
    sigma = timeline.sigma
    earliest = min(pull.received_at - each.sigma for pull, each in zip(pulls, timelines, strict=True))
    origin = max(requested_at, earliest)

    known = None if time_limit is None else time_limit + card.gap
    arrived = {
        max(0, heartbeat - origin): heartbeat
        for heartbeat in sorted(heartbeats, reverse=True)
        if heartbeat >= requested_at and (known is None or heartbeat - origin <= known)
    }
    evidence = _Evidence(
        points=tuple(sorted(arrived)),
        speech=tuple(span for span in timeline.of(*SPEECH) if known is None or span[0] <= known),
    )
    last_proof = evidence.last()

    found = {
        "bad_segment": timeline.bad,
        "unknown_segment_type": bool(timeline.unknown()),
        "timeline_shrank": max(each.talk() for each in timelines[accepted:]) - timeline.talk() > SECOND,
        "timeline_longer_than_elapsed": earliest < requested_at - 5 * SECOND,
        "unwitnessed_speech": evidence.unwitnessed(card.gap),
        "alive_beyond_timeline": any(at <= received_at and point > sigma + SECOND for point, at in arrived.items()),
    }

    axis = _all_silent(card, sigma, (end for _, end in timeline.of(*SPEECH)))
    for kind in SPEECH:
        for start, end in timeline.of(kind):
            axis.paint(start, end, kind)
    charge_start = _charge_start(card.charge_from if charge_from is None else charge_from, evidence, timeline)
    axis.paint(0, sigma if charge_start is None else charge_start, "before_charge_start")
    for start, end in evidence.gaps(card.gap):
        axis.paint(start, end, "no_proof_of_life")
    axis.paint(last_proof, sigma, "after_last_proof")
    for start, end in timeline.unknown():
        axis.paint(start, end, "unknown_type")
    axis.paint(received_at - origin, sigma, "beyond_elapsed")
    if time_limit is not None:
        axis.paint(time_limit, sigma, "after_time_limit")
    if interim:
        axis.paint(timeline.open_from(), sigma, "open_segment")

    due = _rate(axis, card)
    amount = due if authorized is None else min(due, authorized)
    lengths = axis.lengths()
    return Verdict(
        amount=amount,
        beyond=due - amount,
        origin=origin,
        sigma=sigma,
        billed={label: lengths.pop(label, 0) for label in BILLED},
        not_billed=lengths,
        anomalies=frozenset(name for name, holds in found.items() if holds),
        last_proof=last_proof,
    )


def over_at(verdict: Verdict, card: Card, *, time_limit: int, heard: bool, no_heartbeat_grace: int) -> int:
    """The instant on our clock from which the session is over, if the provider does not say so before (§10).

    ``heard`` is whether any heartbeat ever came; without one, ``no_heartbeat_grace`` (microseconds) is waited if it is
    longer than G.
    """
    wait = card.gap if heard else max(card.gap, no_heartbeat_grace)
    return verdict.origin + min(verdict.last_proof + wait, time_limit + card.gap)


# Bounds


def ground_truth_bounds(
    card: Card,
    *,
    said: Sequence[tuple[str, int, int]],
    agent_left: int,
    requested_at: int,
    time_limit: int,
    heartbeat_sent: Collection[int],
    tolerance: int,
    began: int | None = None,
) -> tuple[int, int]:
    """The least and the most micro-credits that a correct final charge can come to, whatever was lost on the way.

    ``said`` is what was really said, as (type, start, end) at true instants, no two at once; ``heartbeat_sent`` are the
    instants at which heartbeats really left. ``tolerance`` bounds how late a heartbeat arrives and how long a pull is
    under way (microseconds). ``began`` is the true instant of offset 0; without it, it lies anywhere from
    ``requested_at`` to the first word, and the bounds are wider by that. No ceiling is applied.

    The charge of §8 never falls when time is added to what is billed. So the least is the price of the speech that
    nothing can take away, and the most that of all speech and of all silence up to the last sign of life.
    """
    zero = requested_at if began is None else began
    talk = sorted((start - zero, end - zero, kind) for kind, start, end in said if kind in SPEECH and start < end)
    if any(left[1] > right[0] for left, right in pairwise(talk)):
        raise ValueError("two at once")
    first = talk[0][0] if talk else None
    first_user = min((start for start, _, kind in talk if kind == "user"), default=None)

    sure = Axis(min(time_limit, agent_left - zero))
    for start, end, kind in talk:
        sure.paint(start, end, kind)
    # All heartbeats may be lost, and with them the start of what is charged.
    start_by: dict[str, int | None] = {"origin": 0, "first_speech": first, "first_user_speech": first_user}
    _leave_out(sure, start_by.get(card.charge_from))

    latest_zero = first if began is None and first is not None else 0
    possible = _all_silent(card, latest_zero + time_limit, (end for _, end, _ in talk))
    signs = [*(end for _, end, _ in talk), *(sent - zero for sent in heartbeat_sent)]
    silent_until = min(max(signs, default=-tolerance), agent_left - zero) + tolerance
    possible.paint(silent_until, possible.length, BARE)
    for start, end, kind in talk:
        possible.paint(start, end, kind)
    start_by["first_heartbeat"] = 0 if heartbeat_sent else None
    _leave_out(possible, start_by[card.charge_from])

    return _rate(sure, card), _rate(possible, card)


def _leave_out(axis: Axis, charge_start: int | None) -> None:
    axis.paint(0, axis.length if charge_start is None else charge_start, "before_charge_start")
