"""What the calls of what-if answer."""

from typing import Any, Final

from app.core.what_if import MAX_USERS, Direction, NotRated
from app.errors import NOT_FOUND, TOO_MANY_SIMULATIONS
from app.http.schemas import (
    PAGED,
    Described,
    Operation,
    amount,
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
from app.pricing.schemas import RATE_CARD
from app.what_if.simulations import SimulationState

_CHANGE: Final = {
    "before": amount("By the card by which each was charged last, without a ceiling.", "1200"),
    "after": amount("By the other card.", "1320"),
    "difference": amount("`after` less `before`.", "120"),
}
_SUM: Final = {"sessions": whole("How many.", 40), **_CHANGE}
_USER: Final = record({"user_id": text("ada", longest=128), **_SUM})
_SESSION: Final = record({"session_id": public_id("ses"), "user_id": text("ada", longest=128), **_CHANGE})
_PERCENT: Final[dict[str, Any]] = {"type": "integer", "minimum": -100, "maximum": 100, "examples": [5]}
_BUCKET: Final = record(
    {
        "direction": one_of(Direction, "`free_before`: it was 0, and is not any more."),
        "from_percent": or_null({**_PERCENT, "description": "Where it begins; null: no percentage says it."}),
        "to_percent": or_null({**_PERCENT, "description": "Where it ends; null: nowhere."}),
        "sessions": whole("Whose charge changes so.", 12),
        "difference": amount("What that comes to.", "84.5"),
    }
)
_MARGIN: Final = record(
    {
        "cost": amount("What the provider takes, for sessions that were written off as well.", "700"),
        "before": amount("What was charged by the card of then, less `cost`.", "500"),
        "after": amount("What the other card charges, less `cost`.", "620"),
        "sessions_at_a_loss_before": whole("Sessions that cost more than they bring by the card of then.", 3),
        "sessions_at_a_loss_after": whole("And by the other card.", 1),
    }
)
_RESULT: Final = record(
    {
        **_SUM,
        "charged": amount("What their users are charged now: less than `before` by leakage and refunds.", "1180"),
        "distribution": listed(_BUCKET, "All sessions by how their charge changes, relative to what it was."),
        "users": record(
            {
                "total": whole("Users with sessions that are compared.", 9),
                "higher": whole("Who would pay more.", 4),
                "lower": whole("Who would pay less.", 3),
                "unchanged": whole("For whom nothing changes.", 2),
            }
        ),
        "users_paying_more": listed(_USER, f"The {MAX_USERS} hurt most, by amount."),
        "users_paying_less": listed(_USER, f"The {MAX_USERS} who gain most, by amount."),
        "largest_rise": or_null(_SESSION),
        "largest_fall": or_null(_SESSION),
        "written_off": record(_SUM, description="Nobody pays these, whatever the card: they are in no other sum."),
        "not_rated": record({str(why): whole("Sessions left out for this reason.", 0) for why in NotRated}),
        "margin": or_null(_MARGIN),
    }
)
_OF_A_CARD: Final = {
    "id": or_null(public_id("rc", "Null: a draft.")),
    "version": or_null(whole("Of its name; null: a draft.", 1, least=1)),
}


def _simulation(card: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": public_id("sim"),
        "state": one_of(SimulationState),
        "rate_card": card,
        "provider_cost": or_null(card),
        "after": instant("Sessions that were settled from here on."),
        "before": instant("Sessions that were settled before."),
        "persona": or_null(text("tutor", "Only of this persona; null: of all.", longest=128)),
        "scenario": or_null(text("guide", "Only of this scenario; null: of all.", longest=128)),
        "progress": record(
            {
                "sessions": whole("So many were looked at.", 40),
                "total": or_null(whole("So many there are; null: not counted yet.", 100)),
            }
        ),
        "failure": or_null(text("it was taken up 5 times and came no further", "Why it failed; null: it did not.")),
        "created_at": instant("When it was asked for."),
        "started_at": or_null(instant("When it was first taken up.")),
        "finished_at": or_null(instant("When it was done, or had failed.")),
    }


WHAT_IF: Final = Described(
    schemas={
        "Simulation": record(
            {**_simulation(record({**_OF_A_CARD, **RATE_CARD})), "result": or_null(ref("SimulationResult"))}
        ),
        "SimulationResult": _RESULT,
        "SimulationRow": record(_simulation(record({**_OF_A_CARD, "name": text("evening", longest=128)}))),
        "SimulationPage": page_of("SimulationRow"),
    },
    operations={
        "POST /v1/rate-cards/simulations": Operation(
            description="Prices all sessions that were settled in a period by another card, in the background.",
            answers={202: replies("It waits for its turn.", ref("Simulation"))},
            problems=(TOO_MANY_SIMULATIONS,),
            idempotent=True,
            example={
                "rate_card": {"name": "evening", "rates": {"user": "30", "agent": "60", "silence": "0"}},
                "after": "2026-01-01T00:00:00Z",
                "before": "2026-02-01T00:00:00Z",
            },
        ),
        "GET /v1/rate-cards/simulations": Operation(
            description="All that are kept, newest first, without their results.",
            answers={200: replies("A page of simulations.", ref("SimulationPage"))},
            parameters=PAGED,
        ),
        "GET /v1/rate-cards/simulations/{simulation_id}": Operation(
            description="How far it is and, once it is done, its result.",
            answers={200: replies("The simulation.", ref("Simulation"))},
            problems=(NOT_FOUND,),
            parameters={"simulation_id": public_id("sim", "The simulation's id.")},
        ),
    },
)
