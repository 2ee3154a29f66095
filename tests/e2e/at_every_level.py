"""``talktime`` with every logger told to say everything, access log, echoed SQL and asyncio's debugging among it.

That is more than any setting allows: what still does not show up in the log never can. ``PLANTED`` in the environment
is logged as well, as if somebody had forgotten a line: whoever looks for secrets in the log must find it.
"""

import asyncio
import logging
import os
from typing import Any

import structlog
import uvicorn

from app import cli, running, service
from app.logs import configure_logs

LOUD = (
    "asyncio", "httpcore", "httpcore.connection", "httpcore.http11", "httpx", "psycopg", "psycopg.pool", "sqlalchemy",
    "sqlalchemy.engine", "sqlalchemy.engine.Engine", "sqlalchemy.pool", "uvicorn", "uvicorn.access", "uvicorn.asgi",
    "uvicorn.error",
)  # fmt: skip
EVERYTHING = 1


class _LoudConfig(uvicorn.Config):
    def __init__(self, app: Any, **given: Any) -> None:
        super().__init__(app, **(given | {"access_log": True, "log_level": EVERYTHING}))
        turn_up()


class _LoudService(service.Service):
    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0  # each callback is told, with what it was called with
        await super().start()


def turn_up() -> None:
    """Undo whatever keeps a logger quiet."""
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(EVERYTHING)
    for name in {*LOUD, *logging.root.manager.loggerDict}:
        logger = logging.getLogger(name)
        logger.disabled, logger.propagate, logger.filters = False, True, []
        logger.setLevel(EVERYTHING)


def _configure_and_turn_up(style: str) -> None:
    configure_logs(style)
    turn_up()
    structlog.get_logger("forgotten").debug("forgotten", value=os.environ["PLANTED"])
    trace = ValueError(f"a message that tells {os.environ['PLANTED']}")
    logging.getLogger("forgotten").debug("forgotten as well", exc_info=trace)


for name, loud in {"configure_logs": _configure_and_turn_up, "Service": _LoudService}.items():
    setattr(running, name, loud)
setattr(uvicorn, "Config", _LoudConfig)  # noqa: B010 - a class is no attribute to assign to

if __name__ == "__main__":
    cli.main()
