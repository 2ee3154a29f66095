"""What a client learns of a start that the provider refused: at once, and again later from the session's last step."""

import re
from typing import Final

from sqlalchemy import select

from app.core.units import US_PER_S
from app.db.database import Transaction
from app.db.tables import session_steps
from app.errors import PERSONA_NOT_ACCEPTED, PROVIDER_REFUSED, FieldError, Problem
from app.gabber import Refused
from app.sessions.records import Session

INVALID_INPUT: Final = (400, "invalid_input")
"""The provider's answer to a persona or scenario that it does not know."""

_REFUSED: Final = re.compile(r"refused: (\d{3}|-) ([a-z0-9_.-]+): (.*)", re.DOTALL)


def why_refused(refused: Refused) -> str:
    """The refusal as a session's step keeps it; :func:`read_refusal` reads it back."""
    return f"refused: {refused.status or '-'} {refused.code}: {refused.message}"


def read_refusal(why: str) -> Refused | None:
    """The refusal that a step was taken for; null if it was taken for another reason."""
    found = _REFUSED.fullmatch(why)
    if found is None:
        return None
    status, code, message = found.groups()
    return Refused(status=None if status == "-" else int(status), code=code, message=message)


def refusal_problem(session: Session, refused: Refused) -> Problem:
    """422 ``persona-not-accepted`` or 502 ``provider-refused``, with the provider's own reason.

    ``Retry-After`` if the provider said when it takes starts again: another start, with another key, may do then.
    """
    wait = refused.retry_after
    why = refused.message or refused.code
    not_accepted = (refused.status, refused.code) == INVALID_INPUT
    return Problem(
        PERSONA_NOT_ACCEPTED if not_accepted else PROVIDER_REFUSED,
        why,
        # Which of the two it is, the provider does not say.
        errors=[FieldError("/persona", why), FieldError("/scenario", why)] if not_accepted else (),
        extra={
            "session_id": session.public_id,
            "provider_status": refused.status,
            "provider_code": refused.code,
        },
        headers={} if wait is None else {"Retry-After": str(max(1, -(-wait // US_PER_S)))},
    )


async def failure_problem(transaction: Transaction, session: Session) -> Problem:
    """Why a ``failed`` session did not start: the provider's refusal, else the reason of its last step as a 502."""
    statement = select(session_steps.c.why).where(
        session_steps.c.account_id == session.account_id,
        session_steps.c.session_id == session.id,
        session_steps.c.n == session.steps,
    )
    why = (await transaction.execute(statement)).scalar_one()
    refused = read_refusal(why)
    if refused is not None:
        return refusal_problem(session, refused)
    return Problem(PROVIDER_REFUSED, why, extra={"session_id": session.public_id})
