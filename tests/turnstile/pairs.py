"""Who meets whom: actors that touch one account or session, what must happen, and what may come of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.turnstile import acts
from tests.turnstile.acts import Act, Prepare
from tests.turnstile.controller import Told
from tests.turnstile.oracle import Rows

Answers = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """``later``: how far each actor's clock is ahead of the set-up's end, in seconds. ``must``: answers that have to
    come about in some order. ``beside``: answers that no serial order gives, and why they are right all the same; the
    money must still be that of a serial order. ``to_the_end``: outcomes are compared after time has passed and workers
    have done the rest. ``floor_moves``: an actor takes credit away that others hold."""

    name: str
    actors: Sequence[tuple[str, Act]]
    prepare: Prepare
    must: frozenset[Answers]
    later: Sequence[float] = (0, 0, 0)
    beside: Mapping[Answers, str] = field(default_factory=dict)
    check: Callable[[Sequence[Told], Rows], list[str]] = lambda told, rows: []
    to_the_end: bool = False
    floor_moves: bool = False

    @property
    def pair(self) -> bool:
        return len(self.actors) == 2


def _both(one: str, other: str) -> frozenset[Answers]:
    return frozenset({(one, other), (other, one)})


def _sessions_as_answered(before: int) -> Callable[[Sequence[Told], Rows], list[str]]:
    """A refused start leaves nothing; an admitted one has a session and a hold."""

    def check(told: Sequence[Told], rows: Rows) -> list[str]:
        admitted = sum(one.seen in {"201", "504 provider-unconfirmed"} for one in told if one.body)
        granted = sum("/grants" in one.body for one in told)
        found = len(rows["sessions"]) - before
        problems = []
        if granted == 0 and found != admitted:
            problems.append(f"{admitted} starts were admitted, {found} sessions are there")
        if len(rows["holds"]) != len(rows["sessions"]):
            problems.append(f"{len(rows['sessions'])} sessions with {len(rows['holds'])} holds")
        return problems

    return check


def _one_effect(table: str) -> Callable[[Sequence[Told], Rows], list[str]]:
    """Same key: one effect, and whoever is answered is answered the same."""

    def check(told: Sequence[Told], rows: Rows) -> list[str]:
        problems = []
        if len(rows[table]) != 1:
            problems.append(f"{len(rows[table])} {table} of one key")
        bodies = {json.dumps(json.loads(one.body), sort_keys=True) for one in told if one.seen.startswith("20")}
        if len(bodies) != 1:
            problems.append(f"{len(bodies)} answers to one key: {bodies}")
        return problems

    return check


def _pulls_in_order(told: Sequence[Told], rows: Rows) -> list[str]:
    """Whoever lost the lease stores nothing, so no pull is stored after one that was made later."""
    del told
    pulled = [snapshot["requested_at"] for snapshot in rows["snapshots"]]
    return [] if pulled == sorted(pulled) else [f"pulls are stored as {pulled}"]


def _each_event_dispatched_once(told: Sequence[Told], rows: Rows) -> list[str]:
    """Whatever is behind the mark was dispatched, and nothing else; who passes by a late event loses it for ever."""
    del told
    (account,) = rows["accounts"]
    passed = {event["id"] for event in rows["events"] if event["seq"] <= account["dispatched_seq"]}
    dispatched = [delivery["event_id"] for delivery in rows["deliveries"]]
    return [] if sorted(dispatched) == sorted(passed) else [f"{len(passed)} events passed by, dispatched {dispatched}"]


def _sent_once(told: Sequence[Told], rows: Rows) -> list[str]:
    (delivery,) = rows["deliveries"]
    sent = [one.seen for one in told if one.seen.startswith("sent")]
    counted = [attempt["counted"] for attempt in rows["delivery_attempts"]]
    problems = [] if len(sent) == 1 and counted == [True] else [f"sent {len(sent)} times, noted as {counted}"]
    if delivery["state"] != "delivered" or delivery["lease_token"] is not None:
        problems.append(f"it is {delivery['state']}, leased to {delivery['lease_token']}")
    return problems


def _sent_after_it_was_asked_for(told: Sequence[Told], rows: Rows) -> list[str]:
    """What was under way when the delivery was asked for anew does not count as what was asked for."""
    del told
    (delivery,) = rows["deliveries"]
    counted = [attempt["counted"] for attempt in rows["delivery_attempts"]]
    if delivery["state"] == "delivered" and counted != [True]:
        return [f"it counts as delivered by attempts that are {counted}"]
    if delivery["state"] == "waiting" and (delivery["attempts"] or delivery["lease_token"] is not None):
        return [f"it waits, and is not as if it had just been asked for: {delivery}"]
    return []


def _one_payment(told: Sequence[Told], rows: Rows) -> list[str]:
    """However often it is told of, one grant."""
    del told
    of_it = [grant for grant in rows["grants"] if (grant["reference"] or "").startswith("stripe:")]
    return [] if len(of_it) == 1 else [f"{len(of_it)} grants of one payment"]


def _refunded(told: Sequence[Told], rows: Rows) -> list[str]:
    """Whatever came first, what was refunded was taken once."""
    taken = [entry["amount"] for entry in rows["entries"] if ":payment:" in entry["natural_key"]]
    known = [(payment["refunded"], payment["taken"]) for payment in rows["payments"]]
    right = taken == [-100_000_000] and known == [(1000, 100_000_000)]
    return [*_one_payment(told, rows), *([] if right else [f"{taken} taken, {known} known"])]


def _each_period_once(told: Sequence[Told], rows: Rows) -> list[str]:
    del told
    given = [period["n"] for period in rows["recurring_periods"]]
    references = sorted(grant["reference"].rpartition(":")[2] for grant in rows["grants"])
    return [] if given == [0, 1, 2] and references == ["0", "1", "2"] else [f"periods {given}, grants {references}"]


NOT_COVERED: Final = "402 insufficient-credits"
IN_FLIGHT: Final = "409 idempotency-in-flight"
_A_START: Final = acts.starting(time_limit_s=30)

PAIRS: Final = (
    Meeting(
        name="start/start",
        actors=[("start", _A_START), ("start", _A_START)],
        prepare=acts.funded("40"),
        must=_both("201", NOT_COVERED),
        check=_sessions_as_answered(0),
    ),
    Meeting(
        name="start/start-limit",
        actors=[("start", _A_START), ("start", _A_START)],
        prepare=acts.funded("1000", max_concurrent_sessions=1),
        must=_both("201", "409 too-many-sessions"),
        check=_sessions_as_answered(0),
    ),
    Meeting(
        name="grant/grant-new",
        actors=[("grant", acts.granting("5")), ("grant", acts.granting("7"))],
        prepare=acts.nothing,
        must=frozenset({("201", "201")}),
    ),
    Meeting(
        name="settle/settle",
        actors=[("reconcile", acts.reconciling), ("reconcile", acts.reconciling)],
        prepare=acts.over,
        must=_both("settled", "not_ours"),
    ),
    Meeting(
        name="settle/refund",
        actors=[("reconcile", acts.reconciling), ("refund", acts.correcting("refund"))],
        prepare=acts.over,
        must=frozenset({("settled", "201"), ("settled", "409 session-not-settled")}),
    ),
    Meeting(
        name="refund/refund",
        actors=[("refund", acts.correcting("refund", amount="9")), ("refund", acts.correcting("refund", amount="10"))],
        prepare=acts.settled,
        must=_both("201", "409 refund-exceeds-charge"),
    ),
    Meeting(
        name="refund/rerate",
        actors=[
            ("refund", acts.correcting("refund", amount="8")),
            ("rerate", acts.correcting("rerate", rate_card="cheap")),
        ],
        prepare=acts.settled,
        must=frozenset({("201", "200")}),
    ),
    Meeting(
        name="lower/settle",
        actors=[("interim", acts.reconciling), ("final", acts.reconciling)],
        prepare=acts.quiet_for_longer,
        later=(67, 400),
        must=frozenset({("updated", "settled"), ("not_ours", "settled")}),
    ),
    Meeting(
        name="lower/start",
        actors=[("interim", acts.reconciling), ("start", _A_START)],
        prepare=acts.quiet,
        later=(1, 1),
        must=frozenset({("updated", "201"), ("updated", NOT_COVERED)}),
        check=_sessions_as_answered(1),
    ),
    Meeting(
        name="expire/settle",
        actors=[("post due", acts.posting_due), ("reconcile", acts.reconciling)],
        prepare=acts.expiring,
        must=frozenset({("posted", "settled")}),
    ),
    Meeting(
        name="expire/refund",
        actors=[("post due", acts.posting_due), ("refund", acts.correcting("refund"))],
        prepare=acts.expired_settled,
        must=frozenset({("posted", "201")}),
    ),
    Meeting(
        name="void/start",
        actors=[("void", acts.voiding()), ("start", _A_START)],
        prepare=acts.funded("40"),
        must=frozenset({("200", "201"), ("200", NOT_COVERED)}),
        check=_sessions_as_answered(0),
    ),
    Meeting(
        name="void/settle",
        actors=[("void", acts.voiding()), ("reconcile", acts.reconciling)],
        prepare=acts.over,
        must=frozenset({("200", "settled")}),
    ),
    Meeting(
        name="top-up/start",
        actors=[("top-up", acts.granting("30")), ("start", acts.starting(time_limit_s=50))],
        prepare=acts.indebted,
        must=frozenset({("201", "201")}),
    ),
    Meeting(
        name="limit/start",
        actors=[("limit", acts.limiting(credit_limit="0")), ("start", _A_START)],
        prepare=acts.funded("1", credit_limit="50"),
        floor_moves=True,
        must=frozenset({("200", "201"), ("200", NOT_COVERED)}),
        check=_sessions_as_answered(0),
    ),
    Meeting(
        name="heartbeat/settle",
        actors=[("heartbeat", acts.beating), ("reconcile", acts.reconciling)],
        prepare=acts.over,
        must=frozenset({("204", "settled"), ("204", "updated")}),
    ),
    Meeting(
        name="bind/give-up",
        actors=[("heartbeat", acts.beating), ("reconcile", acts.reconciling)],
        prepare=acts.unconfirmed("1000"),
        must=frozenset({("204", "failed"), ("204", "not_ours")}),
        beside={
            ("204", "updated"): "leased when it was due, pulled when it had been heard: sooner than need be, no harm",
        },
        to_the_end=True,
    ),
    Meeting(
        name="give-up/start",
        actors=[("reconcile", acts.reconciling), ("start", _A_START)],
        prepare=acts.unconfirmed("40"),
        must=frozenset({("failed", "201"), ("failed", NOT_COVERED)}),
        check=_sessions_as_answered(1),
    ),
    Meeting(
        name="start/bind",
        actors=[("start", _A_START), ("heartbeat", acts.beating_once_started)],
        prepare=acts.started_talking("40"),
        must=frozenset({("201", "204")}),
        to_the_end=True,
    ),
    Meeting(
        name="lost-start/bind",
        actors=[("start", _A_START), ("heartbeat", acts.beating_once_started)],
        prepare=acts.answers_lost(acts.started_talking("40")),
        must=frozenset({("201", "204"), ("504 provider-unconfirmed", "204")}),
        to_the_end=True,
    ),
    Meeting(
        name="start/give-up",
        actors=[("start", _A_START), ("reconcile", acts.giving_up_once_started)],
        prepare=acts.started_talking("40"),
        later=(0, 41),
        must=frozenset({("201", "unconfirmed"), ("201", "not_ours")}),
        beside={
            ("201", "updated"): "leased when it was due, pulled when its start had been answered: sooner than need be",
        },
        to_the_end=True,
    ),
    Meeting(
        name="stale/new-worker",
        actors=[("stale", acts.reconciling), ("new", acts.reconciling)],
        prepare=acts.over,
        later=(0, 61),
        must=_both("settled", "not_ours"),
        check=_pulls_in_order,
    ),
    Meeting(
        name="stale/new-interim",
        actors=[("stale", acts.reconciling), ("new", acts.reconciling)],
        prepare=acts.quiet_for_longer,
        later=(67, 140),
        must=frozenset({("not_ours", "updated"), ("updated", "updated")}),
        check=_pulls_in_order,
    ),
    Meeting(
        name="same-key-start",
        actors=[("start", acts.starting("same", time_limit_s=30)), ("start", acts.starting("same", time_limit_s=30))],
        prepare=acts.funded("1000"),
        must=_both("201", "201 replayed") | _both("201", IN_FLIGHT),
        beside=dict.fromkeys(
            _both("201", IN_FLIGHT), "between a start's two transactions its outcome is not known: ask again"
        ),
        check=_one_effect("sessions"),
    ),
    Meeting(
        name="same-key-grant",
        actors=[("grant", acts.granting("5", "same")), ("grant", acts.granting("5", "same"))],
        prepare=acts.nothing,
        must=_both("201", "201 replayed"),
        check=_one_effect("grants"),
    ),
    Meeting(
        name="same-key-refund",
        actors=[("refund", acts.correcting("refund", "same")), ("refund", acts.correcting("refund", "same"))],
        prepare=acts.settled,
        must=_both("201", "201 replayed"),
    ),
    Meeting(
        name="review/review",
        actors=[
            ("settle", acts.correcting("review", action="settle")),
            ("write off", acts.correcting("review", action="write_off")),
        ],
        prepare=acts.in_review,
        must=_both("200", "409 session-not-in-review"),
    ),
    Meeting(
        name="late-look/late-look",
        actors=[("reconcile", acts.reconciling), ("reconcile", acts.reconciling)],
        prepare=acts.amended,
        must=_both("rated_again", "not_ours"),
    ),
    Meeting(
        name="late-look/refund",
        actors=[("reconcile", acts.reconciling), ("refund", acts.correcting("refund"))],
        prepare=acts.amended,
        must=frozenset({("rated_again", "201")}),
    ),
    Meeting(
        name="late-look/rerate",
        actors=[("reconcile", acts.reconciling), ("rerate", acts.correcting("rerate", rate_card="dear"))],
        prepare=acts.amended,
        must=frozenset({("rated_again", "200")}),
    ),
    Meeting(
        name="late-look/heartbeat",
        actors=[("reconcile", acts.reconciling), ("heartbeat", acts.beating)],
        prepare=acts.amended,
        must=frozenset({("rated_again", "204")}),
    ),
    Meeting(
        name="adjust/settle",
        actors=[("adjust", acts.adjusting("-400")), ("reconcile", acts.reconciling)],
        prepare=acts.over,
        must=frozenset({("201", "settled")}),
    ),
    Meeting(
        name="dispatch/dispatch",
        actors=[("dispatch", acts.dispatching), ("dispatch", acts.dispatching)],
        prepare=acts.listening,
        must=frozenset({("dispatched", "dispatched")}),
        check=_each_event_dispatched_once,
    ),
    Meeting(
        name="grant/dispatch",
        actors=[("grant", acts.granting("5")), ("dispatch", acts.dispatching)],
        prepare=acts.listening,
        must=frozenset({("201", "dispatched")}),
        check=_each_event_dispatched_once,
    ),
    Meeting(
        name="deliver/deliver",
        actors=[("deliver", acts.delivering), ("deliver", acts.delivering)],
        prepare=acts.dispatched,
        must=_both("sent, signed by 1", "nothing"),
        check=_sent_once,
    ),
    Meeting(
        name="redeliver/deliver",
        actors=[("redeliver", acts.redelivering()), ("deliver", acts.delivering)],
        prepare=acts.dispatched,
        must=frozenset({("202", "sent, signed by 1")}),
        check=_sent_after_it_was_asked_for,
    ),
    Meeting(
        name="rotate/deliver",
        actors=[("rotate", acts.rotating()), ("deliver", acts.delivering)],
        prepare=acts.dispatched,
        must=frozenset({("200", "sent, signed by 1"), ("200", "sent, signed by 2")}),
    ),
    Meeting(
        name="payment/payment",
        actors=[("hear", acts.paying("checkout")), ("hear", acts.paying("checkout"))],
        prepare=acts.nothing,
        must=frozenset({("200", "200")}),
        check=_one_payment,
    ),
    Meeting(
        name="payment/refund",
        actors=[("hear of it", acts.paying("checkout")), ("hear of its refund", acts.paying("refund"))],
        prepare=acts.nothing,
        must=frozenset({("200", "200")}),
        check=_refunded,
    ),
    Meeting(
        name="refund/paid-again",
        actors=[
            ("hear of its refund", acts.paying("refund", known="checkout")),
            ("hear of it again", acts.paying("again")),
        ],
        prepare=acts.nothing,
        must=frozenset({("200", "200")}),
        check=_refunded,
    ),
    Meeting(
        name="refunded/settle",
        actors=[("hear", acts.paying("checkout", known="refund")), ("reconcile", acts.reconciling)],
        prepare=acts.over,
        must=frozenset({("200", "settled")}),
        check=_refunded,
    ),
    Meeting(
        name="period/period",
        actors=[("give", acts.giving_periods), ("give", acts.giving_periods)],
        prepare=acts.two_periods_due,
        must=_both("2", "0"),
        check=_each_period_once,
    ),
    Meeting(
        name="slice/slice",
        actors=[("lease", acts.leasing(1)), ("lease", acts.leasing(2))],
        prepare=acts.nothing,
        # A slice that was used up is followed by one twice as large, whose second permit stays in hand.
        must=frozenset({("+0", "+24000 +48000"), ("+72000", "+0 +24000")}),
        beside={("+24000", "+0 +48000"): "between the slices of one process another may have one"},
    ),
)

TRIPLES: Final = (
    Meeting(
        name="start/start/top-up",
        actors=[("start", _A_START), ("start", _A_START), ("top-up", acts.granting("20"))],
        prepare=acts.funded("40"),
        must=frozenset({("201", "201", "201"), ("201", NOT_COVERED, "201"), (NOT_COVERED, "201", "201")}),
    ),
    Meeting(
        name="settle/refund/expire",
        actors=[
            ("reconcile", acts.reconciling),
            ("refund", acts.correcting("refund")),
            ("post due", acts.posting_due),
        ],
        prepare=acts.expiring,
        must=frozenset({("settled", "201", "posted"), ("settled", "409 session-not-settled", "posted")}),
    ),
    Meeting(
        name="heartbeat/settle/new-worker",
        actors=[("heartbeat", acts.beating), ("stale", acts.reconciling), ("new", acts.reconciling)],
        prepare=acts.over,
        later=(0, 0, 61),
        must=frozenset({("204", "settled", "not_ours"), ("204", "not_ours", "settled")}),
    ),
)

MEETINGS: Final = {meeting.name: meeting for meeting in (*PAIRS, *TRIPLES)}
