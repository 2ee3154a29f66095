"""What the calls about a session's charge, evidence and corrections answer."""

from typing import Any, Final

from app.core.lifecycle import State
from app.errors import (
    ALREADY_RATED,
    BUSY,
    CAPABILITY_MISSING,
    END_REFUSED,
    END_UNCONFIRMED,
    NOT_FOUND,
    PROVIDER_BUSY,
    PROVIDER_UNAVAILABLE,
    REFUND_EXCEEDS_CHARGE,
    RERATE_WINDOW_CLOSED,
    SESSION_NOT_IN_REVIEW,
    SESSION_NOT_LIVE,
    SESSION_NOT_SETTLED,
    SESSION_WRITTEN_OFF,
)
from app.gabber import PullFailure
from app.http.schemas import (
    BINARY,
    PAGED,
    Described,
    Operation,
    Reply,
    amount,
    any_object,
    duration,
    flag,
    instant,
    listed,
    one_of,
    or_null,
    page_of,
    public_id,
    record,
    ref,
    replies,
    text,
    whole,
)
from app.pricing.schemas import EXPLANATION, PIECE

_SVG: Final = {
    "type": "string",
    "description": "The session on one time axis: one SVG document that needs nothing else.",
}
_STRETCH: Final = {
    "from": instant("When it began."),
    "to": instant("When it ended."),
    "from_s": duration("Where it begins on the timeline."),
    "to_s": duration("Where it ends on the timeline."),
}
_CHARGE: Final = record(
    {
        **EXPLANATION,
        "pieces": listed(
            record({**PIECE, "own_outage": flag("Whether we could not have heard what would have proven it.")})
        ),
        "own_outages": listed(record(_STRETCH), "When we were not receiving."),
        "heartbeat_gaps": listed(
            record({**_STRETCH, "own_outage": flag("Whether we were not receiving in it.")}),
            "Where heartbeats are missing.",
        ),
        "session_id": public_id("ses"),
        "state": one_of(State),
        "final": flag("Whether it was posted; else it is what has accrued."),
        "proposed": or_null(ref("Explanation")),
        "settles_at": or_null(amount("In review: what the charge is if it is settled now.")),
        "entry_id": or_null(public_id("ent", "The first debit.")),
        "charged": or_null(amount("What was charged in all.")),
        "given_back": or_null(amount("What was given back of that.")),
        "leakage": or_null(amount("What the last rating came to and was not charged.", "0")),
        "snapshot": or_null(whole("Which of the session's snapshots was rated.", 1)),
        "accepted_snapshot": or_null(
            whole("The snapshot with which an operator accepted evidence that contradicts itself.", 1)
        ),
        "heartbeats": listed(instant("When one came.")),
    }
)
_REFUND: Final = record(
    {
        "session_id": public_id("ses"),
        "amount": amount("What was given back."),
        "left": amount("What is left of the charge."),
        "goodwill_grant_id": or_null(public_id("grt", "The grant that stands for expired ones.")),
        "entries": listed(ref("Entry"), "What was posted."),
    }
)
_RERATING: Final = record(
    {
        "session_id": public_id("ses"),
        "dry_run": flag("Whether nothing was posted."),
        "before": amount("What the last rating came to."),
        "after": amount("What this one comes to, as far as it can be drawn."),
        "difference": amount("Over 0: more was charged."),
        "leakage": amount("What is owed by the evidence and was not charged."),
        "goodwill_grant_id": or_null(public_id("grt")),
        "entries": listed(ref("Entry"), "What was posted."),
        "charge": ref("Explanation"),
    }
)
_HEARTBEAT: Final = record({"received_at": instant("When it came."), "extra": any_object("What else it held.")})
_SNAPSHOT: Final = record(
    {
        "requested_at": instant("When it was asked for."),
        "received_at": instant("When it came."),
        "values": listed({}, "Digit for digit as the provider sent it."),
    }
)

_SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$", "examples": ["0" * 64]}
_PULL: Final = record(
    {
        "snapshot": or_null(whole("The snapshot that was made of it; null: it came to nothing.", 1)),
        "failure": or_null(one_of((kind.code for kind in PullFailure), "Why it came to nothing.")),
        "detail": or_null(text("the provider answered 500", "The same in words.")),
        "times": whole("As often failed pulls were answered like this.", 1),
        "first_received_at": instant("When such an answer came for the first time."),
        "received_at": instant("When it came, or came last."),
        "pages": listed(
            record(
                {
                    "page": whole("Which of the pull's pages, from 1.", 1),
                    "sha256": {**_SHA256, "description": "Of the body as it is kept: its address."},
                    "kept": flag("Whether the body is there. If not, all that follows is null."),
                    "status": or_null(whole("The HTTP status.", 200)),
                    "content_type": or_null(text("application/json", "As the provider said; null also if it did not.")),
                    "received_at": or_null(instant("When this body came for the first time.")),
                    "size": or_null(whole("Bytes of the body, as far as it was read.", 512)),
                    "truncated": or_null(flag("Whether more came, or was to come, than is kept.")),
                    "redacted": or_null(flag("Whether a secret of ours was taken out of it.")),
                }
            ),
            "What was answered.",
        ),
    }
)

_ID: Final[dict[str, Any]] = {"session_id": public_id("ses", "The session's id.")}

SETTLEMENT: Final = Described(
    schemas={
        "Charge": _CHARGE,
        "Refund": _REFUND,
        "Rerating": _RERATING,
        "Heartbeat": _HEARTBEAT,
        "HeartbeatPage": page_of("Heartbeat"),
        "Snapshot": _SNAPSHOT,
        "SnapshotPage": page_of("Snapshot"),
        "Pull": _PULL,
        "PullPage": page_of("Pull"),
    },
    operations={
        "GET /v1/sessions/{session_id}/charge": Operation(
            description="The explanation of the posted charge or, while there is none, of what has accrued.",
            answers={200: replies("The explanation.", ref("Charge"), svg=_SVG)},
            problems=(NOT_FOUND,),
            parameters=_ID,
        ),
        "GET /v1/sessions/{session_id}/heartbeats": Operation(
            description="The heartbeats that we received, first one first.",
            answers={200: replies("A page of heartbeats.", ref("HeartbeatPage"))},
            problems=(NOT_FOUND,),
            parameters={**_ID, **PAGED},
        ),
        "GET /v1/sessions/{session_id}/snapshots": Operation(
            description="The timelines that we pulled, first one first.",
            answers={200: replies("A page of snapshots.", ref("SnapshotPage"))},
            problems=(NOT_FOUND,),
            parameters={**_ID, **PAGED},
        ),
        "GET /v1/sessions/{session_id}/pulls": Operation(
            description="The answers to the pulls behind snapshots, and to the first and the last that failed.",
            answers={200: replies("A page of pulls, first one first.", ref("PullPage"))},
            problems=(NOT_FOUND,),
            parameters={**_ID, **PAGED},
        ),
        "GET /v1/sessions/{session_id}/bodies/{sha256}": Operation(
            description="The body of one of these answers, byte for byte.",
            answers={
                200: Reply(description="The body.", content={BINARY: {"type": "string", "contentMediaType": BINARY}})
            },
            problems=(NOT_FOUND,),
            parameters={**_ID, "sha256": {**_SHA256, "description": "Its SHA-256, as the pulls name it."}},
        ),
        "POST /v1/sessions/{session_id}/reconcile": Operation(
            description="Pulls the timeline now and does what it asks for. May be repeated at will.",
            answers={200: replies("The session after it.", ref("Session"))},
            problems=(NOT_FOUND, PROVIDER_UNAVAILABLE, PROVIDER_BUSY, BUSY),
            parameters=_ID,
        ),
        "POST /v1/sessions/{session_id}/end": Operation(
            description="Asks the provider to end the session; it is over when its evidence says so.",
            answers={202: replies("The session, which the provider was asked to end.", ref("Session"))},
            problems=(
                NOT_FOUND,
                CAPABILITY_MISSING,
                SESSION_NOT_LIVE,
                END_REFUSED,
                END_UNCONFIRMED,
                PROVIDER_BUSY,
            ),
            parameters=_ID,
            idempotent=True,
        ),
        "POST /v1/sessions/{session_id}/refund": Operation(
            description="Gives back a charge or a part of it, to where it came from.",
            answers={201: replies("What was given back.", ref("Refund"))},
            problems=(NOT_FOUND, SESSION_NOT_SETTLED, REFUND_EXCEEDS_CHARGE),
            parameters=_ID,
            idempotent=True,
        ),
        "POST /v1/sessions/{session_id}/rerate": Operation(
            description="Rates the session again on all evidence there is by now, and posts the difference.",
            answers={200: replies("What came of it.", ref("Rerating"))},
            problems=(
                NOT_FOUND,
                SESSION_NOT_SETTLED,
                SESSION_WRITTEN_OFF,
                RERATE_WINDOW_CLOSED,
                ALREADY_RATED,
            ),
            parameters=_ID,
            idempotent=True,
        ),
        "POST /v1/sessions/{session_id}/review": Operation(
            description="Ends a review: settles the session as its evidence is rated, or writes it off.",
            answers={200: replies("The session, which is settled.", ref("Session"))},
            problems=(NOT_FOUND, SESSION_NOT_IN_REVIEW),
            parameters=_ID,
            idempotent=True,
        ),
    },
)
