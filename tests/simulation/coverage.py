"""What must have happened over a run of many worlds: each fault, each ambush, each branch. Else the run fails."""

from collections.abc import Mapping
from typing import Final

from app.core.lifecycle import STEPS
from tests.simulation.dice import ALL
from tests.simulation.endpoints import BRANCHES as ENDPOINTS
from tests.simulation.plan import AMBUSHES, HIDDEN
from tests.simulation.top_ups import BRANCHES as TOP_UPS
from tests.simulation.watchers import BRANCHES as WATCHERS

ENOUGH: Final = 200
"""Of fewer seeds nothing is demanded."""

_BRANCHES: Final = (
    "a charge written off", "a poisoned batch", "adopted", "heartbeats above the queue", "closed",
    "an ended key refused", "by API key", "key 201", "revoke 200", "token 201", "user token, own: 200",
    "user token, own: 401", "user token, another: 401", "user token, another: 403",
    "clock ahead", "clock behind", "heartbeat to a wrong clock", "write to a wrong clock", "ready again",
    "not ready: clock", "not ready: no database", "restarted, as not ready",
    "pull 503 provider-busy", "start 503 provider-busy", "step - > starting", "step - > unconfirmed",
    "adjust 201", "adjust 409 below-floor", "anomaly: alive_beyond_timeline", "anomaly: bad_segment",
    "a shrunk timeline accepted", "anomaly: timeline_longer_than_elapsed", "anomaly: unknown_segment_type",
    "anomaly: unwitnessed_speech", "card 201", "controls 200", "database down", "deaf",
    "end 202", "end 409 session-not-live", "entry adjustment",
    "entry charge", "entry expiry", "entry grant", "entry refund", "entry repayment", "entry rerate", "entry void",
    "event balance.depleted", "event balance.low", "event balance.recovered", "event charge.corrected",
    "event grant.created", "event grant.expired", "event grant.expiring", "event grant.voided",
    "event session.failed", "event session.live", "event session.over", "event session.review",
    "event session.settled", "event session.started", "event rate_card.published",
    "event webhook_endpoint.disabled", "grant 201", "grant active", "grant expired", "grant voided",
    "heartbeat 204", "heartbeat 409 session-mismatch", "heartbeat 422 invalid-request",
    "heartbeat 503 busy", "heartbeat 503 unavailable",
    "heartbeat/after the end", "heartbeats dropped", "hold lower", "hold release", "hold settle", "hold start",
    "idempotency-key-expired", "killed", "limits 200", "misused key", "not billed: after_last_proof",
    "not billed: after_time_limit",
    "not billed: before_charge_start", "not billed: included", "not billed: no_proof_of_life",
    "not billed: short_session", "not billed: silence_cap", "not billed: unknown_type", "odd 422", "own outage",
    "pull 200", "pull 502 provider-unavailable", "refund 201", "refund 409 refund-exceeds-charge", "replayed",
    "rated again by itself",
    "rerate 200", "rerate 409 session-written-off", "review 200", "start 201", "start 402 insufficient-credits",
    "start 422 persona-not-accepted", "start 502 provider-refused", "start 504 provider-unconfirmed",
    "timeline/outage", "void 200", "void 409 grant-closed", "void 409 grant-spent",
)  # fmt: skip
EXPECTED: Final = frozenset(_BRANCHES) | {
    *ENDPOINTS,
    *TOP_UPS,
    *WATCHERS,
    *(f"{group}/{fault}" for group, fault in ALL),
    *(f"{point} {how}" for point, how in AMBUSHES),
    *(f"{point} hidden" for point in HIDDEN),
    *(f"step {before} > {after}" for before, following in STEPS.items() for after in following),
}


def missing(fired: Mapping[str, int]) -> list[str]:
    """What never happened."""
    found = {f"{name.partition(' ')[0]} hidden" for name, times in fired.items() if times}
    return sorted(name for name in EXPECTED if not fired.get(name) and name not in found)
