"""Sessions: the list, and the page of one, with its picture, its charge, its evidence, and its replay."""

from dataclasses import dataclass, replace
from typing import Any, Final

from markupsafe import Markup
from starlette.responses import Response

from app.accounts.statements import EntryFilter, statement_page
from app.core.ids import AccountThing, Kind, parse_public_id
from app.core.lifecycle import State
from app.core.lossless_json import dumps
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database
from app.errors import Problem
from app.http.bodies import checked_user_id, instant_parameter
from app.http.pages import DEFAULT_LIMIT
from app.ledger.keys import LedgerKeys
from app.pictures import draw, extent
from app.receiving import Receiving
from app.sessions.documents import session_with_steps
from app.sessions.queries import sessions_page
from app.sessions.routes import unknown_session
from app.settlement.evidence_file import evidence_file
from app.settlement.explained import Explained, charge_document, load_explained, picture_of
from app.settlement.pull_routes import body_response, pulls_page
from app.settlement.replay import replay
from app.web.forms import as_moment
from app.web.site import ADMIN, Page, Visit

SESSIONS: Final = ADMIN + "/sessions"
SESSION: Final = SESSIONS + "/{session_id}"
MOST_ENTRIES: Final = 50
MOST_PULLS: Final = 30
MOST_HEARTBEATS: Final = 200
"""So many of a session's heartbeats are listed on its page; all of them are in the file of its evidence."""

CLOSEST: Final = Micros(2 * US_PER_S)
"""No nearer than that: the picture of so much time fills the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPages:
    """``rerate_window``: for so long after its settlement a session can be rated again. ``can_end``: the provider."""

    database: Database
    receiving: Receiving
    ledger_keys: LedgerKeys
    rerate_window: Micros
    can_end: bool

    def pages(self) -> list[Page]:
        return [
            Page(SESSIONS, self._list),
            Page(SESSION, self._session),
            Page(SESSION + "/picture", self._picture),
            Page(SESSION + "/pulls", self._pulls),
            Page(SESSION + "/replay", self._replay),
            Page(SESSION + "/evidence.zip", self._evidence),
            Page(SESSION + "/bodies/{sha256}", self._body),
        ]

    async def _list(self, visit: Visit) -> Response:
        asked = {name: visit.asked(name) for name in ("user_id", "state", "after", "before")}
        cursor = visit.asked("cursor") or None
        found: dict[str, Any] = {"data": [], "next_cursor": None}
        problem: Problem | None = None
        try:
            after = instant_parameter("after", as_moment(asked["after"]))
            before = instant_parameter("before", as_moment(asked["before"]))
            user_id = checked_user_id(asked["user_id"]) if asked["user_id"] else None
            async with self.database.reading() as transaction:
                found = await sessions_page(
                    transaction,
                    limit=DEFAULT_LIMIT,
                    cursor=cursor,
                    user_id=user_id,
                    state=asked["state"] or None,
                    started_after=after,
                    started_before=before,
                )
        except Problem as refused:
            problem = refused
        return visit.page(
            "sessions.html",
            200 if problem is None else problem.status,
            nav="sessions",
            sessions=found,
            asked=asked,
            given={name: value for name, value in asked.items() if value},
            states=[state.value for state in State],
            problem=problem,
            first=cursor is None,
            user=None,
        )

    async def _session(self, visit: Visit) -> Response:
        key = session_of(visit)
        async with self.database.reading() as transaction:
            explained = await load_explained(transaction, key, self.receiving.outages)
            session = await session_with_steps(transaction, explained.session)
            window = self.rerate_window
            charge = await charge_document(transaction, explained, now=visit.now, rerate_window=window)
            wanted = EntryFilter(session=key)
            entries = await statement_page(transaction, session["user_id"], wanted, limit=MOST_ENTRIES, cursor=None)
        return visit.page(
            "session.html",
            nav="sessions",
            session=session,
            charge=charge,
            entries=entries,
            heartbeats=charge["heartbeats"][:MOST_HEARTBEATS],
            metadata=_metadata(explained),
            can_end=self.can_end,
            can_rerate=_within(explained, visit.now, self.rerate_window),
            **_drawn(visit, explained),
        )

    async def _picture(self, visit: Visit) -> Response:
        """The picture alone, of a part of the time."""
        async with self.database.reading() as transaction:
            explained = await load_explained(transaction, session_of(visit), self.receiving.outages)
        return visit.page("picture.html", session={"id": explained.session.public_id}, **_drawn(visit, explained))

    async def _pulls(self, visit: Visit) -> Response:
        key = session_of(visit)
        async with self.database.reading() as transaction:
            pulls = await pulls_page(transaction, key, MOST_PULLS, None)
        return visit.page("pulls.html", session={"id": visit.part("session_id")}, pulls=pulls)

    async def _replay(self, visit: Visit) -> Response:
        async with self.database.reading() as transaction:
            versions = await replay(transaction, session_of(visit))
        return visit.page("replay.html", versions=versions)

    async def _evidence(self, visit: Visit) -> Response:
        key = session_of(visit)
        async with self.database.reading() as transaction:
            explained = await load_explained(transaction, key, self.receiving.outages)
            packed = await evidence_file(
                transaction, explained, now=visit.now, rerate_window=self.rerate_window, keys=self.ledger_keys
            )
        name = f"evidence-{explained.session.public_id}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(packed, headers=headers, media_type="application/zip")

    async def _body(self, visit: Visit) -> Response:
        async with self.database.reading() as transaction:
            return await body_response(transaction, session_of(visit), visit.part("sha256"))


def session_of(visit: Visit) -> AccountThing:
    """The session in the address. Raises a 404 :class:`~app.errors.Problem` if that is no id of one."""
    key = parse_public_id(Kind.SESSION, visit.part("session_id"))
    if key is None:
        raise unknown_session()
    return key


def _drawn(visit: Visit, explained: Explained) -> dict[str, Any]:
    """The picture, of the part that the address asks for, and how to move on from there."""
    picture = picture_of(explained)
    shown, end = extent(picture)
    window = _window(visit, end)
    start, until = window or (Micros(0), shown)
    span = until - start
    middle = start + span // 2
    moves: list[tuple[str, str | None]] = [
        ("Closer", _moved(middle - span // 4, middle + span // 4, end) if span > CLOSEST else None),
        ("Wider", _moved(middle - span, middle + span, end) if span < end else None),
        ("Earlier", _moved(start - span // 2, until - span // 2, end) if start > 0 else None),
        ("Later", _moved(start + span // 2, until + span // 2, end) if until < end else None),
        ("All of it", None if window is None else ""),
    ]
    svg = draw(replace(picture, window=window), in_page=True)
    # What we drew ourselves is escaped already.
    return {"picture": Markup(svg), "moves": moves, "zoomed": window is not None}  # noqa: S704


def _window(visit: Visit, end: Micros) -> tuple[Micros, Micros] | None:
    """The part that is asked for, in seconds from the origin; null for all of it, or for what is none."""
    asked = [visit.asked(name) for name in ("from", "to")]
    if not all(text.isascii() and text.replace(".", "", 1).isdigit() and len(text) <= 16 for text in asked):
        return None
    start, until = (min(_micros(text), end) for text in asked)
    if until - start < CLOSEST:
        start, until = Micros(max(0, until - CLOSEST)), Micros(max(until, CLOSEST))
    return start, until


def _micros(text: str) -> Micros:
    whole, _, rest = text.partition(".")
    return Micros(int(whole or "0") * US_PER_S + int((rest + "000000")[:6]))


def _moved(start: int, until: int, end: int) -> str:
    """The query of a part of the time, kept within it."""
    until -= min(0, start)
    start = max(0, start - max(0, until - end))
    until = min(until, end)
    return f"?from={start / US_PER_S:.3f}&to={until / US_PER_S:.3f}"


def _metadata(explained: Explained) -> str:
    return dumps(explained.session.metadata)


def _within(explained: Explained, now: Instant, window: Micros) -> bool:
    settled_at = explained.session.settled_at
    return settled_at is not None and now <= settled_at + window
