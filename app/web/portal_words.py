"""Every word that the portal says, in one place: another language is another :class:`Words` beside the English one."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from app.core.buckets import Reason
from app.core.units import US_PER_S
from app.web.rendering import grouped, span


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language by name, with ``{…}`` for what is put in; ``code`` as browsers know it."""

    code: str
    texts: Mapping[str, str]
    reasons: Mapping[str, str]
    """Why time was free, after its length."""

    def __call__(self, name: str, **values: Any) -> str:
        """A text. ``KeyError`` for one that there is not."""
        return self.texts[name].format(**values)

    def charge(self, document: Mapping[str, Any]) -> str:
        """A charge in a sentence: ``2 min 10 s of talk; 14 s of silence were free``."""
        billed = document["billed"]
        talk, silence = billed["user_s"] + billed["agent_s"], billed["silence_s"] + billed["reduced_rate_s"]
        parts = [self(name, time=span(_tenths(time))) for name, time in (("talk", talk), ("silence", silence)) if time]
        parts += [
            self("free", time=span(_tenths(time)), what=self.reasons[reason])
            for reason, time in document["not_billed"].items()
            if _tenths(time)
        ]
        return "; ".join(parts) or self("nothing_billed")

    def cost(self, amount: str) -> str:
        return self("credits", amount=grouped(amount))


def _tenths(seconds: Decimal) -> Decimal:
    """To the tenth of a second, as no more is said in a sentence."""
    return Decimal(int(Decimal(seconds) * US_PER_S) // 100_000) / 10


ENGLISH: Final = Words(
    "en",
    {
        "title": "Your talk time",
        "skip": "Skip to the content",
        "available": "Available",
        "available_more": "{balance} in all, {held} kept for running sessions",
        "time_left": "Talk time left",
        "time_left_more": "at your price",
        "expires": "Expires next",
        "expires_never": "Nothing you have expires.",
        "sessions": "Your sessions",
        "all_sessions": "All sessions",
        "no_sessions": "You have had no session yet.",
        "statement": "Statement",
        "whole_statement": "The whole statement",
        "no_entries": "Nothing was booked yet.",
        "download": "Download (CSV)",
        "more": "More",
        "first": "To the first",
        "back": "Back",
        "leave": "Leave",
        "left": "You have left. The link opens this page again for as long as it lasts.",
        "expired_title": "This link does not open anything",
        "expired": "It has expired, or a part of it is missing. Ask for a new one where you found it.",
        "lost_title": "There is nothing here",
        "lost": "The page or the session is not there.",
        "broken_title": "Something broke",
        "broken": "It is our fault, and nothing was changed. Try again in a moment.",
        "credits": "{amount} credits",
        "so_far": "{amount} credits so far",
        "still_left": "at most {time} left",
        "talk": "{time} of talk",
        "silence": "{time} of silence",
        "free": "{time} {what} were free",
        "nothing_billed": "nothing was charged",
        "given_back": "{amount} credits were given back",
        "why": "What it cost and why",
        "picture": "The session on one time axis",
        "lines": "Line by line",
        "line_what": "What",
        "line_time": "Time",
        "line_price": "A minute",
        "line_amount": "Credits",
        "line_total": "In all",
        "when": "When",
        "what": "What",
        "amount": "Credits",
        "balance": "Balance",
        "utc": "Times are UTC.",
        "state.starting": "starting",
        "state.unconfirmed": "starting",
        "state.live": "running",
        "state.over": "being worked out",
        "state.review": "being looked at",
        "state.settled": "ended",
        "state.failed": "did not start",
        "kind.grant": "Credits added",
        "kind.charge": "Session",
        "kind.expiry": "Credits expired",
        "kind.repayment": "Debt repaid",
        "kind.void": "Credits taken back",
        "kind.adjustment": "Correction",
        "kind.refund": "Given back",
        "kind.rerate": "Session, corrected",
        "line.user": "you talking",
        "line.agent": "the agent talking",
        "line.silence": "silence",
        "line.reduced_rate": "silence at a lower price",
        "line.connection_fee": "connection",
        "line.increments": "rounded up to the next unit",
        "line.minimum_duration": "minimum length",
        "line.minimum_charge": "minimum charge",
        "line.maximum_charge": "maximum charge",
        "line.rounding": "rounding",
    },
    {
        Reason.OPEN_SEGMENT: "that were not over yet",
        Reason.AFTER_TIME_LIMIT: "past the time limit",
        Reason.BEYOND_ELAPSED: "that cannot have been",
        Reason.UNKNOWN_TYPE: "of an unknown kind",
        Reason.AFTER_LAST_PROOF: "after the agent was last heard of",
        Reason.NO_PROOF_OF_LIFE: "in which the agent was not heard of",
        Reason.BEFORE_CHARGE_START: "before charging began",
        Reason.SILENCE_CAP: "of silence",
        Reason.SHORT_SESSION: "of a short session",
        Reason.INCLUDED: "that are included",
    },
)
