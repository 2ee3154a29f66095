"""What the calls of sessions answer."""

from typing import Final

from app.core.lifecycle import State
from app.errors import (
    INSUFFICIENT_CREDITS,
    NOT_FOUND,
    PERSONA_NOT_ACCEPTED,
    PROVIDER_BUSY,
    PROVIDER_REFUSED,
    PROVIDER_UNCONFIRMED,
    SPEND_LIMIT_REACHED,
    STARTS_STOPPED,
    TOO_MANY_SESSIONS,
    USER_SUSPENDED,
)
from app.http.schemas import (
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

_SESSION: Final = {
    "id": public_id("ses"),
    "provider_session_id": or_null(text("01a20bdc-ff66-78f9", "The provider's id, once it is known.")),
    "user_id": text("ada", "Your own id of the user.", longest=128),
    "persona": text("tutor", longest=128),
    "scenario": text("guide", longest=128),
    "state": one_of(State, "Where it is in its life."),
    "requested_at": instant("When it was asked for."),
    "started_at": or_null(instant("When the provider said so, or the first heartbeat proved it.")),
    "over_at": or_null(instant("When it was found to be over.")),
    "settled_at": or_null(instant("When its charge was posted.")),
    "time_limit_s": duration("The longest that it can last.", 600),
    "held": amount("What is held for it now."),
    "accrued": amount("What it has cost so far; not posted."),
    "charged": or_null(amount("What it cost; null until it is settled.")),
    "leakage": or_null(amount("What it came to and nobody was charged for; null until it is settled.", "0")),
    "written_off": flag("Whether an operator wrote it off."),
    "authorized": amount("The most that it can cost: what was held at first.", "600"),
    "rate_card": record(
        {"id": public_id("rc"), "name": text("default"), "version": whole("Of the name.", 1, least=1)},
        description="The version that it is priced by.",
    ),
    "last_heartbeat_at": or_null(instant("When the last heartbeat came.")),
    "heartbeat_count": whole("How many heartbeats came.", 20),
    "anomalies": listed(text("gap_in_heartbeats"), "What is odd about its evidence."),
    "metadata": any_object("As it was given."),
}
_STEP: Final = record(
    {
        "state": one_of(State),
        "from": or_null(one_of(State)),
        "why": text("the provider started it"),
        "at": instant("When the step was taken."),
    }
)
_CONNECTION: Final = record(
    {"url": text("wss://connect.example"), "token": text("sim-01a20bdc", "Whoever has it can join the session.")},
    description="What the provider's client library connects with.",
)
_STARTED: Final = record(
    {
        "session": ref("Session"),
        "connection_details": or_null(ref("ConnectionDetails")),
        "webhook": or_null(text("https://talktime.example/webhooks/gabber/…", "Only with `start` false.")),
    },
    optional=["webhook"],
    description="`connection_details` is null where nobody knows it, or where it is not given again.",
)

_START_PROBLEMS: Final = (
    INSUFFICIENT_CREDITS,
    USER_SUSPENDED,
    TOO_MANY_SESSIONS,
    SPEND_LIMIT_REACHED,
    PERSONA_NOT_ACCEPTED,
    PROVIDER_REFUSED,
    PROVIDER_BUSY,
    STARTS_STOPPED,
    PROVIDER_UNCONFIRMED,
)
_ID: Final = {"session_id": public_id("ses", "The session's id.")}

_OF_A_SESSION: Final = (
    "get_session", "get_charge", "heartbeats", "snapshots", "reconcile", "end", "refund_session", "rerate_session",
    "review_session",
)  # fmt: skip

SESSIONS: Final = Described(
    schemas={
        "Session": record(_SESSION),
        "SessionWithSteps": record({**_SESSION, "steps": listed(_STEP, "What became of it, first step first.")}),
        "SessionPage": page_of("Session"),
        "ConnectionDetails": _CONNECTION,
        "StartedSession": _STARTED,
    },
    operations={
        "POST /v1/sessions": Operation(
            description="Sizes the session by what the user has, holds that, and has the provider start it. With "
            "`start` false your own backend starts it, with the `webhook` of the answer.",
            answers={
                201: Reply(
                    description="The session, and what to connect with.",
                    content={"application/json": ref("StartedSession")},
                    links={name: {"session_id": "$response.body#/session/id"} for name in _OF_A_SESSION},
                )
            },
            problems=_START_PROBLEMS,
            idempotent=True,
        ),
        "POST /api/start_session": Operation(
            description="The same in the form of the provider's guide: the answer is the bare connection.",
            answers={
                200: Reply(
                    description="What to connect with.",
                    content={"application/json": ref("ConnectionDetails")},
                    headers={"X-Session-Id": public_id("ses", "Our id of the session.")},
                )
            },
            problems=_START_PROBLEMS,
            idempotent=True,
        ),
        "GET /v1/sessions": Operation(
            description="Sessions, those asked for last first; of a period of starts, those started last first.",
            answers={200: replies("A page of sessions.", ref("SessionPage"))},
            parameters={
                **PAGED,
                "user_id": text("ada", "Sessions of this user.", longest=128),
                "state": one_of(State, "Sessions in this state."),
                "started_after": instant("Started then or later."),
                "started_before": instant("Started earlier than that."),
            },
        ),
        "GET /v1/sessions/{session_id}": Operation(
            description="One session with every step that it took.",
            answers={200: replies("The session.", ref("SessionWithSteps"))},
            problems=(NOT_FOUND,),
            parameters=_ID,
        ),
    },
)
