"""Reviews: what waits for a person, the evidence, what it would come to, and the keys to decide it by."""

from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup
from starlette.responses import Response

from app.core.ids import Kind, parse_public_id
from app.core.lifecycle import State
from app.core.units import Micros
from app.db.database import Database, Transaction
from app.pictures import draw
from app.receiving import Receiving
from app.sessions.documents import session_with_steps
from app.sessions.queries import waiting_reviews
from app.settlement.explained import charge_document, load_explained, picture_of
from app.web.site import ADMIN, Page, Visit

REVIEWS: Final = ADMIN + "/reviews"
AT_ONCE: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewPages:
    """``rerate_window``: so long after its settlement a review can still raise a session's charge."""

    database: Database
    receiving: Receiving
    rerate_window: Micros

    def pages(self) -> list[Page]:
        return [Page(REVIEWS, self._queue), Page(REVIEWS + "/{session_id}", self._one)]

    async def _queue(self, visit: Visit) -> Response:
        cursor = visit.asked("cursor") or None
        async with self.database.reading() as transaction:
            waiting, more = await waiting_reviews(transaction, limit=AT_ONCE, cursor=cursor)
            asked = visit.asked("session")
            # Nobody has chosen one: the first is fetched by the page itself.
            review = await self._review(transaction, visit, asked) if asked else None
        chosen = asked or (waiting[0]["id"] if waiting else "")
        found = {"data": waiting, "next_cursor": more}
        return visit.page(
            "reviews.html", nav="reviews", found=found, asked=asked, chosen=chosen, review=review, first=cursor is None
        )

    async def _one(self, visit: Visit) -> Response:
        """One of them alone, as it stands beside the queue."""
        async with self.database.reading() as transaction:
            review = await self._review(transaction, visit, visit.part("session_id"))
        return visit.page("review.html", review=review)

    async def _review(self, transaction: Transaction, visit: Visit, session_id: str) -> dict[str, Any] | None:
        """What is to be known to decide a review; null if the session is not in review, or there is none."""
        key = parse_public_id(Kind.SESSION, session_id)
        if key is None:
            return None
        explained = await load_explained(transaction, key, self.receiving.outages)
        if explained.session.state is not State.REVIEW:
            return None
        charge = await charge_document(transaction, explained, now=visit.now, rerate_window=self.rerate_window)
        session = await session_with_steps(transaction, explained.session)
        # What we drew ourselves is escaped already.
        svg = Markup(draw(picture_of(explained), in_page=True))  # noqa: S704
        return {"session": session, "charge": charge, "picture": svg, "last": session["steps"][-1]}
