"""What must hold when a storm is over. Pure: facts come in, what is wrong goes out, a line each.

Charges are worked out anew by the auditor's own arithmetic, which shares no code with the service.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from tests.simulation import charging
from tests.storm.facts import Call, Facts, Stored, Truth

SECOND: Final = 1_000_000
CARDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {"rates": {"user": "60", "agent": "60", "silence": "60"}},
    "open-ended": {"rates": {"user": "60", "agent": "90", "silence": "30"}, "silence": {"full_rate_first_s": None}},
    "fees": {
        "rates": {"user": "12", "agent": "30", "silence": "6"},
        "silence": {"full_rate_first_s": 2, "factor_after": "0.5"},
        "connection_fee": "0.25",
        "included_s": 3,
        "minimum_charge": "0.5",
        "increments": {"initial_s": 6, "subsequent_s": 6, "scope": "type"},
    },
}
"""The prices of a storm; the first are those that the service comes with."""

BUNCHED_S: Final = Fraction(1, 10)
"""Real seconds for which requests that left one after the other may lie together before the provider looks at them:
two processes of a busy machine are in between."""

WINDOWS_S: Final = (1, 5, 20, 60)
"""Stretches on the clock over which the provider's rate is looked at."""

Check = Callable[[Facts], Iterator[str]]


def ended(facts: Facts) -> Iterator[str]:
    """Every session is settled, failed or, for a reason that is told, in review."""
    for session in facts.stored:
        if session.state not in {"settled", "failed", "review"}:
            yield f"{session.persona} is {session.state}"
        elif not session.why:
            yield f"{session.persona} is {session.state}, and nobody says why"


def no_hold(facts: Facts) -> Iterator[str]:
    """No credits are held any more."""
    return (f"{one.persona}, which is {one.state}, still holds credits" for one in facts.stored if one.hold_active)


def charged_by_the_evidence(facts: Facts) -> Iterator[str]:
    """Every charge is what the stored evidence gives, worked out a second time, at the prices that were published."""
    for session in facts.stored:
        if session.state != "settled":
            continue
        if session.charge is None:
            yield f"{session.persona} is settled without a charge"
            continue
        card = charging.card_of(session.charge["rate_card"])
        if replace(card, charge_from="") != replace(charging.card_of(CARDS[session.card]), charge_from=""):
            yield f"{session.persona}: not the prices of {session.card!r}"
        verdict = _verdict(session)
        amount = micros(session.charge["amount"])
        if amount != verdict.amount:
            yield f"{session.persona}: {amount} is charged, the evidence gives {verdict.amount}"
        # What the provider took back and said again may not be covered by a hold that was lowered meanwhile.
        if session.charged not in {amount, amount + verdict.beyond - session.leakage}:
            yield f"{session.persona}: {amount} is explained, {session.charged} charged, {session.leakage} leaked"
        if session.charged is not None and session.charged > session.authorized:
            yield f"{session.persona}: {session.charged} is charged, {session.authorized} was authorised"


def no_silence_after_death(facts: Facts) -> Iterator[str]:
    """No microsecond of silence is billed that lies after the agent's death by more than a heartbeat's delay."""
    truths = _by_persona(facts)
    for session in facts.stored:
        truth = truths.get(session.persona)
        if session.charge is None or truth is None:
            continue
        for piece in session.charge["pieces"]:
            late = truth.connected_at + seconds(piece["to_s"]) - truth.last_sign
            if piece["type"] == "silence" and piece["billed"] and late > 0:
                yield f"{session.persona}: silence is billed up to {late} µs after the last sign of life"


def within_bounds(facts: Facts) -> Iterator[str]:
    """No charge is more than what was really said and lived, or less than what was surely said."""
    truths = _by_persona(facts)
    for session in facts.stored:
        truth = truths.get(session.persona)
        if session.charge is None or not session.pulls or truth is None:
            continue
        verdict = _verdict(session)
        gross = verdict.amount + verdict.beyond
        least, most = _bounds(session, truth)
        if gross > most:
            yield f"{session.persona}: {gross} is charged, at most {most} was said and lived"
        heard_out = max(pull.received_at for pull in session.pulls) >= truth.left_at
        if gross < least and heard_out and not truth.spoilt:
            yield f"{session.persona}: {gross} is charged, at least {least} was said"


def once(facts: Facts) -> Iterator[str]:
    """Nothing is started, stored or charged twice, and what is charged is what is debited."""
    for what, personas in (("started", facts.truths), ("stored", facts.stored)):
        for persona, times in Counter(one.persona for one in personas).items():
            if times > 1:
                yield f"{persona} is {what} {times} times"
    for session in facts.stored:
        if session.charge_entries > 1:
            yield f"{session.persona} is charged {session.charge_entries} times"
        if -session.entries_sum != (session.charged or 0):
            yield f"{session.persona}: {session.charged} is charged, {-session.entries_sum} is debited"


def nothing_lost(facts: Facts) -> Iterator[str]:
    """What was acknowledged is there: starts, grants, each heartbeat, with when it came; none that never did."""
    stored = {session.persona: session for session in facts.stored}
    for told in facts.told:
        if told.session is not None and (told.persona not in stored or stored[told.persona].id != told.session):
            yield f"{told.persona} was acknowledged as {told.session} and is not there"
    if facts.granted != facts.grant_entries:
        yield f"{facts.granted} was granted, {facts.grant_entries} is in the ledger"
    for truth in facts.truths:
        session = stored.get(truth.persona)
        acknowledged = sum(beat.acknowledged for beat in truth.beats)
        if session is None or session.provider_id is None or session.state == "failed":
            if acknowledged:
                yield f"{truth.persona} sent heartbeats that were acknowledged, and is lost"
            continue
        if acknowledged > len(session.heartbeats):
            yield f"{truth.persona}: {acknowledged} heartbeats acknowledged, {len(session.heartbeats)} stored"
        yield from _unsent(truth, session.heartbeats)
        if session.state == "settled" and session.provider_id != truth.id:
            yield f"{truth.persona} is settled by what another session said"


def rate_kept(facts: Facts) -> Iterator[str]:
    """The provider is not asked more often than it takes: in no stretch of any of :data:`WINDOWS_S`."""
    ours = [call for call in facts.calls if call.ours]
    for window_s, most in most_called(ours).items():
        allowed = facts.rate * (window_s + facts.speed * BUNCHED_S)
        if most > allowed:
            yield f"{most} requests within {window_s} s, where {facts.rate} a second may come"


def most_called(calls: Iterable[Call]) -> dict[int, int]:
    """The most requests within any stretch of each of :data:`WINDOWS_S`."""
    instants = sorted(call.at for call in calls)
    found = {}
    for window_s in WINDOWS_S:
        first = most = 0
        for last, at in enumerate(instants):
            while at - instants[first] >= window_s * SECOND:
                first += 1
            most = max(most, last - first + 1)
        found[window_s] = most
    return found


CHECKS: Final[Mapping[str, Check]] = {
    "settled, failed or in review for a reason": ended,
    "no hold left": no_hold,
    "charged as the evidence says": charged_by_the_evidence,
    "no silence billed after the death": no_silence_after_death,
    "within the bounds of the truth": within_bounds,
    "nothing twice": once,
    "nothing acknowledged is lost": nothing_lost,
    "the provider's rate is kept": rate_kept,
}


def _by_persona(facts: Facts) -> dict[str, Truth]:
    return {truth.persona: truth for truth in facts.truths}


def _verdict(session: Stored) -> charging.Verdict:
    assert session.charge is not None
    return charging.charge(
        charging.card_of(session.charge["rate_card"]),
        requested_at=session.requested_at,
        time_limit=session.time_limit,
        heartbeats=[instant_us(text) for text in session.charge["heartbeats"]],
        pulls=session.pulls,
        authorized=session.authorized,
        charge_from=session.charge_from,
    )


def _bounds(session: Stored, truth: Truth) -> tuple[int, int]:
    assert session.charge is not None
    sent = [beat.sent_at for beat in truth.beats if beat.may_be_stored and beat.sent_at is not None]
    signs = [*sent, *(end for _, _, end in truth.said)]
    latest = min(max(signs, default=truth.connected_at), truth.left_at)
    return charging.ground_truth_bounds(
        charging.card_of(session.charge["rate_card"]),
        said=truth.said,
        agent_left=truth.left_at,
        requested_at=session.requested_at,
        time_limit=session.time_limit,
        heartbeat_sent=sent,
        tolerance=truth.last_sign - latest,
        began=truth.connected_at,
    )


def _unsent(truth: Truth, heartbeats: Sequence[int]) -> Iterator[str]:
    """Stored heartbeats for which none was under way; each can stand for one."""
    free = [beat for beat in truth.beats if beat.may_be_stored]
    for at in sorted(heartbeats):
        fitting = [beat for beat in free if (beat.sent_at or 0) <= at and (beat.done_at is None or at <= beat.done_at)]
        if not fitting:
            yield f"{truth.persona}: no heartbeat was under way at {at}"
            continue
        # Those whose time is over first can serve the fewest of the rest.
        free.remove(min(fitting, key=lambda beat: beat.done_at or at))


# Reading documents


def micros(text: str) -> int:
    """Credits as micro-credits."""
    return _whole(Fraction(text))


def seconds(value: object) -> int:
    """Seconds as microseconds."""
    return _whole(Fraction(str(value)))


def _whole(value: Fraction) -> int:
    scaled = value * SECOND
    if scaled.denominator != 1:
        raise ValueError(f"finer than a millionth: {value}")
    return scaled.numerator


def instant_us(text: str) -> int:
    """An instant of a document."""

    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
