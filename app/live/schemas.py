"""What the call of a user's live state answers."""

from typing import Final

from app.core.lifecycle import State
from app.errors import BUSY, NO_STREAM_FREE, NOT_FOUND, TOO_MANY_STREAMS, USER_SUSPENDED
from app.http.accept import EVENT_STREAM
from app.http.schemas import (
    JSON,
    USER_ID,
    Described,
    Operation,
    Reply,
    Schema,
    amount,
    duration,
    flag,
    instant,
    listed,
    one_of,
    or_null,
    public_id,
    record,
    ref,
    text,
    whole,
)
from app.live.frames import End

_EXPIRING: Final = record({"amount": amount("What nothing holds of it."), "at": instant("When it expires.")})
_TIME_LEFT: Final = record(
    {
        "seconds": duration(
            "How long the user can talk at `as_of`: the longest rest of a live session, else "
            "how long a new one may last.",
            540,
        ),
        "rate": {"type": "integer", "enum": [-1, 0], "description": "By how much that changes in a second."},
    }
)
_SESSION: Final = record(
    {
        "id": public_id("ses"),
        "state": one_of(State),
        "persona": text("tutor"),
        "scenario": text("talk"),
        "requested_at": instant("When it was asked for."),
        "started_at": or_null(instant("When it began.")),
        "ends_at": or_null(instant("When the provider ends it at the latest.")),
        "over_at": or_null(instant("When it was over.")),
        "settled_at": or_null(instant("When it was charged.")),
        "time_limit_s": duration("How long it may last.", 600),
        "held": amount("What it holds.", "30"),
        "accrued": amount("What it has cost so far.", "2.5"),
        "charged": or_null(amount("What it cost; null until it is settled.", "12.5")),
    }
)
_LIVE: Final = record(
    {
        "user_id": text("ada", longest=128),
        "sequence": whole("Counts the user's events, as `sequence` of an event does.", 12),
        "sessions_since": whole("Each session that took a step after this event is listed.", 0),
        "more_sessions": flag("Whether more sessions run than are listed."),
        "suspended": flag("Whether starts are refused."),
        "balance": amount("What is left of all grants, less debt.", "78.429"),
        "held": amount("What running sessions hold.", "30"),
        "available": amount("Balance and credit limit, less what is held.", "48.429"),
        "credit_limit": amount("How far the user may go into debt.", "0"),
        "accrued": amount("What running sessions have cost so far.", "2.5"),
        "talk_time_s": duration("How long a further session could last.", 48),
        "expiring_next": or_null(_EXPIRING),
        "sessions": listed(_SESSION, "Running ones, and those that took a step lately; asked for last first."),
        "as_of": instant("What the figures are of."),
        "time_left": _TIME_LEFT,
    },
    description="All that there is to tell of a user: each one stands for itself.",
)
_LIVE_END: Final = record(
    {"reason": one_of(End), "reconnect": flag("Whether the same credentials open another stream.")},
    description="The data of a stream's last event, `end`.",
)
_STREAM: Final[Schema] = {
    "type": "string",
    "contentSchema": {"oneOf": [ref("Live"), ref("LiveEnd")]},
    "description": "Server-sent events: `state`, whose data is a `Live`, and at last `end`, whose data is a `LiveEnd`.",
    "examples": ["retry: 2310\n\nevent: state\nid: 12-0123456789abcdef\ndata: {}\n\n"],
}

LIVE: Final = Described(
    schemas={"Live": _LIVE, "LiveEnd": _LIVE_END},
    operations={
        "GET /v1/users/{user_id}/live": Operation(
            description=(
                "The user's state once; with `Accept: text/event-stream`, and again each time that it changes. With "
                "`Last-Event-ID`, a state that the client has seen is not told again."
            ),
            answers={200: Reply(description="The state.", content={JSON: ref("Live"), EVENT_STREAM: _STREAM})},
            problems=(NOT_FOUND, USER_SUSPENDED, TOO_MANY_STREAMS, NO_STREAM_FREE, BUSY),
            parameters={"user_id": USER_ID},
        )
    },
)
