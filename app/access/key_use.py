"""When each key was last used: gathered in memory, written every few seconds, so that no call waits for it.

A process that dies loses what it had not written: the last seconds of it, never more.
"""

from typing import Final
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.units import Instant, datetime_of
from app.db.database import Database
from app.db.tables import key_use

WRITE_EVERY_S: Final = 5.0


class KeyUse:
    """One for each process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._latest: dict[UUID, Instant] = {}

    def note(self, key_id: UUID, at: Instant) -> None:
        self._latest[key_id] = at

    async def write(self) -> None:
        """Write what was gathered; kept for the next time if the database cannot be had."""
        if not self._latest:
            return
        latest, self._latest = self._latest, {}
        rows = [
            {"key_id": key_id, "day": datetime_of(at).date(), "last_used_at": at}
            for key_id, at in sorted(latest.items())  # in one order, so that two processes do not lock each other out
        ]
        statement = upsert(key_use)
        later = func.greatest(key_use.c.last_used_at, statement.excluded.last_used_at)
        try:
            async with self._database.transaction() as transaction:
                await transaction.execute(
                    statement.on_conflict_do_update(index_elements=["key_id", "day"], set_={"last_used_at": later}),
                    rows,
                )
        except BaseException:
            self._latest = latest | self._latest
            raise
