"""The provider adapter: Gabber's session API as the rest of Talktime sees it (``docs/provider.md``).

What leaves this package is values: the provider's oddities, its wire and the HTTP library stay inside.
"""

from app.gabber.client import Gabber
from app.gabber.outcomes import (
    Capabilities,
    Ended,
    EndUnconfirmed,
    NotEnded,
    PulledTimeline,
    PullFailed,
    PullFailure,
    RawBody,
    Refused,
    Started,
    StartRequest,
    Unconfirmed,
)

__all__ = [
    "Capabilities",
    "EndUnconfirmed",
    "Ended",
    "Gabber",
    "NotEnded",
    "PullFailed",
    "PullFailure",
    "PulledTimeline",
    "RawBody",
    "Refused",
    "StartRequest",
    "Started",
    "Unconfirmed",
]
