"""What the calls of prices answer, and the explanation of a charge."""

from typing import Any, Final

from app.core.alignment import OriginQuality
from app.core.buckets import Reason
from app.core.rate_card import ChargeFrom, RoundingMode, Scope
from app.core.rating import LineType
from app.core.timeline import SegmentType
from app.errors import BUSY, NOT_FOUND
from app.http.schemas import (
    PAGED,
    Described,
    Operation,
    amount,
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

RATE_CARD: Final[dict[str, Any]] = {
    "name": text("evening", longest=128),
    "rates": record({kind: amount("Credits a minute.", "30") for kind in ("user", "agent", "silence")}),
    "silence": record(
        {
            "full_rate_first_s": or_null(duration("Of each silence so much at the full rate; null: all.", 5)),
            "factor_after": amount("The part of the rate after that, from 0 to 1.", "0"),
        }
    ),
    "increments": record(
        {
            "initial_s": duration("The first increment.", 0),
            "subsequent_s": duration("Those after it.", 0),
            "scope": one_of(Scope, "What they round up."),
        }
    ),
    "connection_fee": amount("Of every session that is charged at all.", "0"),
    "included_s": duration("Not charged.", 0),
    "short_session_exemption_s": duration("A session up to this is free.", 0),
    "minimum_duration_s": duration("At least so much is charged.", 0),
    "minimum_charge": amount("At least this.", "0"),
    "maximum_charge": or_null(amount("At most this; null: no maximum.", "100")),
    "rounding": record(
        {"quantum": amount("The charge is a multiple of it.", "0.000001"), "mode": one_of(RoundingMode)}
    ),
    "measurement": record(
        {
            "heartbeat_interval_s": duration("How far apart the provider sends them.", 30),
            "missed_heartbeats_tolerated": whole("How many may be missing.", 1),
            "heartbeat_jitter_s": duration("How late one may be.", 15),
            "charge_from": one_of(ChargeFrom, "Where charging begins."),
        }
    ),
}
PIECE: Final[dict[str, Any]] = {
    "type": one_of(SegmentType),
    "from_s": duration("Where it begins on the timeline."),
    "to_s": duration("Where it ends on the timeline."),
    "billed": flag("Whether it was charged."),
    "factor": amount("The part of the rate.", "1"),
    "reason": or_null(one_of(Reason, "Why it was not charged.")),
}
_LINE: Final = record(
    {
        "type": one_of(LineType),
        "of": or_null(one_of(LineType, "Of which kind of time.")),
        "seconds": duration("How much time.", 9),
        "rate_per_minute": amount("Credits a minute.", "1.5", decimals=12),
        "amount": amount("What the line adds or takes off; to 12 decimals.", "0.225", decimals=12),
    },
    optional=["of", "seconds", "rate_per_minute"],
)
_BILLED: Final = ("user_s", "agent_s", "silence_s", "reduced_rate_s", "total_s")
EXPLANATION: Final[dict[str, Any]] = {
    "amount": amount("What it costs.", "1.7946"),
    "beyond_authorization": amount("What is over the authorization, and is not charged.", "0"),
    "origin": record(
        {"at": instant("When the timeline begins."), "quality": one_of(OriginQuality, "How well that is known.")}
    ),
    "timeline_s": duration("The timeline's length.", 3660),
    "billed": record({name: duration("Charged.", 9) for name in _BILLED}),
    "not_billed": {
        "type": "object",
        "propertyNames": {"enum": [str(reason) for reason in Reason]},
        "additionalProperties": duration("Not charged for this reason.", 3600),
        "examples": [{"after_last_proof": 3600}],
    },
    "lines": listed(_LINE, "They add up to `amount` and `beyond_authorization`."),
    "envelopes": listed(
        {"type": "array", "items": duration("On the timeline.", 0), "minItems": 2, "maxItems": 2},
        "From when to when the session was proven to be alive.",
    ),
    "pieces": listed(record(PIECE)),
    "anomalies": listed(text("gap_in_heartbeats")),
    "rate_card": record(RATE_CARD),
    "engine_version": text("1"),
}
_STORED_CARD: Final = record(
    {
        "id": public_id("rc"),
        "version": whole("Of its name.", 1, least=1),
        **RATE_CARD,
        "effective_at": instant("From when on it is in force."),
        "match": record({name: or_null(text("tutor", longest=128)) for name in ("persona", "scenario")}),
        "created_at": instant("When it was published."),
    }
)

PRICING: Final = Described(
    schemas={
        "RateCard": _STORED_CARD,
        "RateCardPage": page_of("RateCard"),
        "RateCardTemplate": record(
            {
                "name": text("provider_cost", longest=128),
                "description": text("The provider's metering rule.", "What it is for, and what it cannot say."),
                "placeholders": listed(text("/rates/user"), "JSON pointers to what has to be filled in."),
                "rate_card": record(RATE_CARD),
            }
        ),
        "RateCardTemplatePage": page_of("RateCardTemplate"),
        "Explanation": record(EXPLANATION),
    },
    operations={
        "GET /v1/rate-cards": Operation(
            description="All versions of all cards, newest first.",
            answers={200: replies("A page of rate cards.", ref("RateCardPage"))},
            parameters={**PAGED, "name": text("evening", "Versions of this name.", longest=128)},
        ),
        "GET /v1/rate-cards/templates": Operation(
            description="Whole documents to begin with. What is a placeholder has to be filled in.",
            answers={200: replies("All templates, in one page.", ref("RateCardTemplatePage"))},
        ),
        "GET /v1/rate-cards/{card_id}": Operation(
            description="One version, by its id.",
            answers={200: replies("The rate card.", ref("RateCard"))},
            problems=(NOT_FOUND,),
            parameters={"card_id": public_id("rc", "The version's id.")},
        ),
        "POST /v1/rate-cards": Operation(
            description="Adds the next version of its name. Versions never change; running sessions keep theirs.",
            answers={201: replies("The version.", ref("RateCard"))},
            problems=(BUSY,),
            idempotent=True,
        ),
        "POST /v1/charges/preview": Operation(
            description="What given evidence would cost. Nothing is stored.",
            answers={200: replies("The explanation.", ref("Explanation"))},
            example={
                "requested_at": "2026-01-31T12:00:00Z",
                "heartbeats": ["2026-01-31T12:00:30Z"],
                "snapshots": [
                    {
                        "requested_at": "2026-01-31T12:01:00Z",
                        "received_at": "2026-01-31T12:01:01Z",
                        "values": [{"type": "user", "start": 0, "end": 9}],
                    }
                ],
            },
        ),
    },
)
