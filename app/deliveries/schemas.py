"""What the calls for endpoints, events and deliveries answer."""

from typing import Final

from app.deliveries.endpoints import EndpointState, WhyDisabled
from app.deliveries.log import DeliveryState
from app.errors import ENDPOINT_DISABLED, NOT_FOUND, TOO_MANY_ENDPOINTS
from app.events.outbox import EventType
from app.http.schemas import (
    PAGED,
    USER_ID,
    Described,
    Operation,
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

_ENDPOINT: Final = {
    "id": public_id("ep"),
    "url": text("https://example.com/talktime", "Where events are sent to."),
    "description": or_null(text("billing", "For you.", longest=128)),
    "event_types": listed(one_of(EventType), "Which events; empty: all."),
    "state": one_of([EndpointState.ACTIVE, EndpointState.DISABLED], "A disabled one is sent nothing."),
    "created_at": instant("When it was made."),
    "failing_since": or_null(instant("Since when every attempt has failed; null: the last one did not.")),
    "disabled_at": or_null(instant("When it was disabled; null: it is active.")),
    "disabled_why": or_null(one_of(WhyDisabled, "`gone`: it answered 410; `failing`: for five days.")),
}
_SECRET: Final = or_null(text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "Given this once; kept sealed."))
_DELIVERY: Final = {
    "event_id": public_id("evt"),
    "event_type": one_of(EventType),
    "user_id": or_null(text("ada", "Whom the event concerns.", longest=128)),
    "endpoint_id": public_id("ep"),
    "state": one_of(DeliveryState, "`dead`: tried often enough. `dropped`: its endpoint was deleted first."),
    "created_at": instant("When it was dispatched."),
    "due_at": or_null(instant("When it is tried next; null: it is done with.")),
    "attempts_made": whole("Attempts, those before it was asked for anew included.", least=0),
    "last_attempt_at": or_null(instant("When it was tried last.")),
    "last_status": or_null(whole("What was answered last; null: nothing.", 200)),
    "last_error": or_null(text("no answer in time", "Why nothing was answered.")),
    "finished_at": or_null(instant("When it was delivered, or given up.")),
}
_ENDPOINT_ID: Final = {"endpoint_id": public_id("ep", "The endpoint's id.")}
_EVENT_ID: Final = {"event_id": public_id("evt", "The event's id.")}
_STATE: Final = one_of(DeliveryState, "Only those in this state.")

EVENTS: Final = Described(
    schemas={
        "Endpoint": record(_ENDPOINT),
        "EndpointWithBacklog": record(
            {
                **_ENDPOINT,
                "backlog": record(
                    {
                        "waiting": whole("Deliveries that wait."),
                        "due": whole("Of these, those whose time has come."),
                        "dead": whole("Dead letters."),
                        "oldest_due_at": or_null(instant("When the first of those that wait is due.")),
                    }
                ),
            }
        ),
        "NewEndpoint": record({**_ENDPOINT, "secret": _SECRET}),
        "RotatedEndpoint": record(
            {
                **_ENDPOINT,
                "previous_secret_until": or_null(instant("Until when the secret of before signs as well.")),
                "secret": _SECRET,
            }
        ),
        "EndpointPage": page_of("Endpoint"),
        "Event": record(
            {
                "id": public_id("evt", "The same in every attempt: what came before is known by it."),
                "type": one_of(EventType),
                "timestamp": instant("When it happened."),
                "user_id": or_null(text("ada", "The ordering key; null: it concerns no user.", longest=128)),
                "sequence": whole("Its place among the events of this user, from 1 without gaps.", least=1),
                "data": any_object("What happened."),
            }
        ),
        "EventPage": page_of("Event"),
        "Delivery": record(_DELIVERY),
        "DeliveryPage": page_of("Delivery"),
        "DeliveryWithAttempts": record(
            {
                **_DELIVERY,
                "attempts": listed(
                    record(
                        {
                            "at": instant("When it was sent."),
                            "took_s": duration("Until the answer was here, or was not waited for any more."),
                            "status": or_null(whole("What was answered; null: nothing.", 200)),
                            "error": or_null(text("no answer in time", "Why nothing was answered.")),
                            "body": or_null(text("ok", "The beginning of the answer's body.")),
                            "counted": flag("Whether this attempt decided; not if it came too late."),
                        }
                    ),
                    "The last ones, newest first.",
                ),
            }
        ),
        "TestSent": record({"event_id": public_id("evt")}),
        "Replayed": record(
            {
                "replayed": whole("Events that are sent again."),
                "next_cursor": or_null(text("WzJd", "To go on with; null: that is all.")),
            }
        ),
        "Redelivered": record(
            {"event_id": public_id("evt"), "endpoint_ids": listed(public_id("ep"), "To which it is sent again.")}
        ),
        "Retried": record(
            {"retried": whole("Dead letters that wait again."), "more": flag("Whether to call once more.")}
        ),
    },
    operations={
        "GET /v1/webhook-endpoints": Operation(
            description="Disabled ones too, deleted ones not. No secrets.",
            answers={200: replies("A page of endpoints.", ref("EndpointPage"))},
            parameters=PAGED,
        ),
        "POST /v1/webhook-endpoints": Operation(
            description="The answer holds the secret, this once.",
            answers={201: replies("The endpoint, with its secret.", ref("NewEndpoint"))},
            problems=(TOO_MANY_ENDPOINTS,),
            idempotent=True,
        ),
        "GET /v1/webhook-endpoints/{endpoint_id}": Operation(
            description="With what has not arrived there.",
            answers={200: replies("The endpoint.", ref("EndpointWithBacklog"))},
            problems=(NOT_FOUND,),
            parameters=_ENDPOINT_ID,
        ),
        "PATCH /v1/webhook-endpoints/{endpoint_id}": Operation(
            description="What is absent stays as it is. What waited for one that is enabled again is sent.",
            answers={200: replies("The endpoint.", ref("Endpoint"))},
            problems=(NOT_FOUND,),
            parameters=_ENDPOINT_ID,
            idempotent=True,
            example={"state": "disabled"},
        ),
        "DELETE /v1/webhook-endpoints/{endpoint_id}": Operation(
            description="For good. What waits for it is dropped.",
            answers={200: replies("The endpoint as it was.", ref("Endpoint"))},
            problems=(NOT_FOUND,),
            parameters=_ENDPOINT_ID,
            idempotent=True,
        ),
        "POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret": Operation(
            description="From now on the new secret signs, and for a while the one before as well.",
            answers={200: replies("The endpoint, with its new secret.", ref("RotatedEndpoint"))},
            problems=(NOT_FOUND,),
            parameters=_ENDPOINT_ID,
            idempotent=True,
            example={"overlap_s": 86400},
        ),
        "POST /v1/webhook-endpoints/{endpoint_id}/test": Operation(
            description="An event of type `webhook_endpoint.test`, for this endpoint only.",
            answers={202: replies("It is on its way.", ref("TestSent"))},
            problems=(NOT_FOUND, ENDPOINT_DISABLED),
            parameters=_ENDPOINT_ID,
            idempotent=True,
        ),
        "POST /v1/webhook-endpoints/{endpoint_id}/replay": Operation(
            description="By ids, or by time: 1,000 at a call. Each bears the id that it had.",
            answers={202: replies("They are on their way.", ref("Replayed"))},
            problems=(NOT_FOUND, ENDPOINT_DISABLED),
            parameters=_ENDPOINT_ID,
            idempotent=True,
            example={"after": "2026-01-31T12:00:00Z"},
        ),
        "POST /v1/webhook-endpoints/{endpoint_id}/retry": Operation(
            description="1,000 at a call, oldest first.",
            answers={202: replies("They are on their way.", ref("Retried"))},
            problems=(NOT_FOUND, ENDPOINT_DISABLED),
            parameters=_ENDPOINT_ID,
            idempotent=True,
        ),
        "POST /v1/events/{event_id}/redeliver": Operation(
            description="To one endpoint, or to all active ones that want its type.",
            answers={202: replies("It is on its way.", ref("Redelivered"))},
            problems=(NOT_FOUND, ENDPOINT_DISABLED),
            parameters=_EVENT_ID,
            idempotent=True,
            example={},
        ),
        "GET /v1/events": Operation(
            description="As they are sent, over all users or of one.",
            answers={200: replies("A page of events.", ref("EventPage"))},
            parameters={
                **PAGED,
                "type": one_of(EventType, "Only events of this type."),
                "user_id": {**USER_ID, "description": "Only what concerns this user."},
                "after": instant("From this instant on."),
                "before": instant("Before this instant."),
            },
        ),
        "GET /v1/events/{event_id}": Operation(
            description="As it is sent.",
            answers={200: replies("The event.", ref("Event"))},
            problems=(NOT_FOUND,),
            parameters=_EVENT_ID,
        ),
        "GET /v1/events/{event_id}/deliveries": Operation(
            description="To deleted endpoints too.",
            answers={200: replies("A page of deliveries.", ref("DeliveryPage"))},
            problems=(NOT_FOUND,),
            parameters={**PAGED, **_EVENT_ID},
        ),
        "GET /v1/webhook-endpoints/{endpoint_id}/deliveries": Operation(
            description="Those dispatched last first.",
            answers={200: replies("A page of deliveries.", ref("DeliveryPage"))},
            problems=(NOT_FOUND,),
            parameters={**PAGED, **_ENDPOINT_ID, "state": _STATE},
        ),
        "GET /v1/webhook-endpoints/{endpoint_id}/deliveries/{event_id}": Operation(
            description="With what was answered to its last 100 attempts.",
            answers={200: replies("The delivery.", ref("DeliveryWithAttempts"))},
            problems=(NOT_FOUND,),
            parameters={**_ENDPOINT_ID, **_EVENT_ID},
        ),
        "GET /v1/dead-letters": Operation(
            description="Over all endpoints or of one, those dispatched last first.",
            answers={200: replies("A page of deliveries.", ref("DeliveryPage"))},
            parameters={**PAGED, "endpoint_id": public_id("ep", "Only of this endpoint.")},
        ),
    },
)
