"""Rate cards to begin with: whole documents in which the prices are for the reader to fill in."""

from dataclasses import dataclass
from typing import Any, Final

from app.core.rate_card import RateCard, RoundingMode, Scope
from app.core.units import US_PER_S, MicroCredits, Micros
from app.pricing.documents import MAX_MISSED_HEARTBEATS, write_rate_card

_NO_PRICE: Final = MicroCredits(0)


@dataclass(frozen=True, slots=True)
class Template:
    """``placeholders``: JSON pointers to what has to be filled in before the card says anything."""

    description: str
    card: RateCard
    placeholders: tuple[str, ...]


PROVIDER_COST: Final = Template(
    description=(
        "The provider's public metering rule, as far as a rate card can say it: of each silence the first 5 seconds, "
        "partial seconds rounded up, whether heartbeats came or not. The prices are placeholders: put in what the "
        "provider takes of you, in credits a minute. Two things no card can say: usage counts when the agent's turn "
        "ends, so what comes after its last turn is counted here and may cost nothing; and if each turn is rounded up "
        "by itself, that is up to a second a turn more than the rounding of a whole session here."
    ),
    card=RateCard(
        name="provider_cost",
        user_rate=_NO_PRICE,
        agent_rate=_NO_PRICE,
        silence_rate=_NO_PRICE,
        full_rate_first=Micros(5 * US_PER_S),
        factor_after=0,
        initial=Micros(US_PER_S),
        subsequent=Micros(US_PER_S),
        scope=Scope.TYPE,
        rounding=RoundingMode.UP,
        # The provider meters by its own timeline: any number of heartbeats may be missing.
        missed_heartbeats_tolerated=MAX_MISSED_HEARTBEATS,
    ),
    placeholders=("/rates/user", "/rates/agent", "/rates/silence"),
)

TEMPLATES: Final = (PROVIDER_COST,)


def template_document(template: Template) -> dict[str, Any]:
    return {
        "name": template.card.name,
        "description": template.description,
        "placeholders": list(template.placeholders),
        "rate_card": write_rate_card(template.card),
    }
