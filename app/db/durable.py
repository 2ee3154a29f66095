"""Single statements that are durable when they return, on one connection of their own.

The statement is its own transaction, so its return is the commit. Used where many small writes share one commit.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg

from app.db.database import CONNECT_TIMEOUT_S, DatabaseUnavailable

STATEMENT_TIMEOUT_S: Final = 10


class DurableStatements:
    """One connection that runs one statement after the other and reconnects when it is lost."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def execute(self, statement: LiteralString, parameters: Sequence[Any]) -> None:
        """Run one statement; committed when this returns.

        Raises :class:`~app.db.database.DatabaseUnavailable` if the connection was lost or nothing came back in
        :data:`STATEMENT_TIMEOUT_S`: then the outcome is unknown and only the same rows under the same keys may be
        sent again. Raises ``psycopg.DataError`` and its like if a value cannot be stored: then nothing was.
        """
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                if self._connection is None:
                    self._connection = await psycopg.AsyncConnection.connect(
                        self._conninfo,
                        autocommit=True,
                        prepare_threshold=None,
                        connect_timeout=CONNECT_TIMEOUT_S,
                    )
                await self._connection.execute(statement, parameters)
        except (psycopg.OperationalError, TimeoutError, OSError) as error:
            await self.close()
            raise DatabaseUnavailable(type(error).__name__) from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()
