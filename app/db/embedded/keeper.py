"""Keeps an owned server running while an event loop runs in the main thread, which alone may start it."""

import asyncio
from collections import deque
from typing import Final

import structlog

from app.db.embedded.errors import EmbeddedPostgresError
from app.db.embedded.server import EmbeddedPostgres

LOOK_S: Final = 0.25
"""How often it is looked whether the server has ended."""

MAX_RESTARTS: Final = 5
RESTARTS_WITHIN_S: Final = 600.0
"""More than ``MAX_RESTARTS`` within so many seconds are no accident: then it is given up."""

log = structlog.get_logger(__name__)


async def keep_running(server: EmbeddedPostgres, *, look_s: float = LOOK_S) -> None:
    """Start an owned server again whenever it has ended; runs until it is cancelled.

    Raises :class:`EmbeddedPostgresError` if the server cannot be started, or ends again and again.
    """
    clock = asyncio.get_running_loop().time
    restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
    while True:
        await asyncio.sleep(look_s)
        code = server.exit_code()
        if code is None:
            continue
        if len(restarts) == MAX_RESTARTS and clock() - restarts[0] < RESTARTS_WITHIN_S:
            raise EmbeddedPostgresError(
                f"PostgreSQL ended {MAX_RESTARTS + 1} times within {RESTARTS_WITHIN_S:g} s, "
                f"the last time with code {code}: see {server.log}"
            )
        restarts.append(clock())
        log.error("postgres.ended", code=code, log=str(server.log))
        await asyncio.to_thread(server.clear_after_death)
        server.start_again()
        try:
            await asyncio.to_thread(server.wait_until_ready)
        except EmbeddedPostgresError:
            code = server.exit_code()
            if code is None or code >= 0:
                raise
            continue  # killed while it started: that counts as one more end
        log.warning("postgres.restarted")
