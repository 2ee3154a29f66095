"""Logs: one line an event, as JSON or for the eye. No line holds a body, a header or a URL of a webhook."""

import logging
import sys
from contextvars import ContextVar
from typing import Any

import structlog

current_request: ContextVar[str | None] = ContextVar("current_request", default=None)
"""The id of the request that is being answered; null in what nobody asked for. It stands in every line."""


def _with_request(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    request_id = current_request.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event


def configure_logs(style: str) -> None:
    """Send structured lines to standard error; ``style`` is ``json`` or ``text``."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells at every start that there is nothing to do
    logging.getLogger("uvicorn.access").disabled = True  # it prints full paths, and a webhook's path is a secret
