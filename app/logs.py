"""Logs: one line an event, as JSON or for the eye. No line holds a body, a header, an address or a stored value.

That holds at any level of any logger (``tests/e2e/test_secrets.py``): what libraries tell of the requests and answers
that they carry is dropped by the handler, and what PostgreSQL repeats of a row is cut out of its errors.
"""

import logging
import re
import sys
from contextvars import ContextVar
from typing import Any, Final, TextIO

import structlog

current_request: ContextVar[str | None] = ContextVar("current_request", default=None)
"""The id of the request that is being answered; null in what nobody asked for. It stands in every line."""


_CARRIERS: Final = ("httpcore", "httpx", "uvicorn.access", "uvicorn.asgi")
"""Loggers that tell addresses, headers and keys below a warning; a webhook's address is a secret."""

_DETAIL: Final = re.compile(r"^(?:\S+: )?(?:DETAIL|CONTEXT):.*$", re.MULTILINE)
"""Where the server's errors repeat the row or the values that it refused."""


def _carries(record: logging.LogRecord) -> bool:
    """Whether a line tells what a library transported."""
    name = record.name
    return record.levelno < logging.WARNING and any(name == own or name.startswith(own + ".") for own in _CARRIERS)


def _without_details(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in ("event", "exception"):
        told = event.get(name)
        if isinstance(told, str) and ("DETAIL:" in told or "CONTEXT:" in told):
            event[name] = _DETAIL.sub("[detail removed]", told)
    return event


def _with_request(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    request_id = current_request.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event


def configure_logs(style: str, stream: TextIO | None = None) -> None:
    """Send structured lines to ``stream`` (standard error); ``style`` is ``json`` or ``text``."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_details,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(lambda record: not _carries(record))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells at every start that there is nothing to do
