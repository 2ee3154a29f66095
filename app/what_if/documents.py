"""The result of a simulation as a document."""

from typing import Any

from app.core.units import MicroCredits, format_credits
from app.core.what_if import BUCKETS, Direction, NotRated, SessionChange, Sum, Tally, UserChange


def result_document(tally: Tally, *, with_cost: bool) -> dict[str, Any]:
    """What it comes to; amounts are decimal strings, all else whole numbers and texts.

    ``tally``: of all sessions, the last user's closed.
    """
    compared = tally.compared
    return {
        **_sum(compared),
        "charged": _credits(tally.charged),
        "distribution": [
            {
                "direction": bucket.direction.value,
                "from_percent": bucket.from_percent,
                "to_percent": bucket.to_percent,
                "sessions": count,
                "difference": _credits(difference),
            }
            for bucket, count, difference in zip(BUCKETS, tally.sessions_in, tally.difference_in, strict=True)
        ],
        "users": {
            "total": tally.users.total(),
            **{way.value: tally.users[way.value] for way in (Direction.HIGHER, Direction.LOWER, Direction.UNCHANGED)},
        },
        "users_paying_more": [_user(change) for change in tally.paying_more],
        "users_paying_less": [_user(change) for change in tally.paying_less],
        "largest_rise": _session(tally.largest_rise),
        "largest_fall": _session(tally.largest_fall),
        "written_off": _sum(tally.written_off),
        "not_rated": {why.value: tally.not_rated[why.value] for why in NotRated},
        "margin": _margin(tally) if with_cost else None,
    }


def _margin(tally: Tally) -> dict[str, Any]:
    return {
        "cost": _credits(tally.cost),
        "before": _credits(tally.compared.before - tally.cost),
        "after": _credits(tally.compared.after - tally.cost),
        "sessions_at_a_loss_before": tally.at_a_loss_before,
        "sessions_at_a_loss_after": tally.at_a_loss_after,
    }


def _sum(found: Sum) -> dict[str, Any]:
    return {"sessions": found.sessions, **_change(found.before, found.after)}


def _user(change: UserChange) -> dict[str, Any]:
    return {"user_id": change.user_id, "sessions": change.sessions, **_change(change.before, change.after)}


def _session(change: SessionChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {
        "session_id": change.session_id,
        "user_id": change.user_id,
        **_change(change.before, change.after),
    }


def _change(before: int, after: int) -> dict[str, str]:
    return {"before": _credits(before), "after": _credits(after), "difference": _credits(after - before)}


def _credits(amount: int) -> str:
    return format_credits(MicroCredits(amount))
