"""Running things: the database that the settings name, and the server around the service."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

import structlog
import uvicorn
from sqlalchemy import make_url

from app.db.embedded import EmbeddedPostgres
from app.db.migrate import migrate, schema_fault
from app.logs import configure_logs
from app.service import Service
from app.settings import BadSettings, Settings, settings_without_effect

log = structlog.get_logger(__name__)

DRAIN_S: Final = 20
"""Requests under way when the service is told to stop have so long to end."""


@dataclass(frozen=True, slots=True)
class Databases:
    """The service's URL, the owner's for migrations, and the role that the owner grants rights to."""

    service: str
    owner: str
    service_role: str | None


@contextmanager
def database_of(settings: Settings, *, for_long: bool = False) -> Iterator[Databases]:
    """The database that the settings name; without one the embedded server, brought to this version's schema.

    ``for_long``: own the embedded server rather than share that of a command which may end first. Must be entered in
    the main thread, before an event loop runs.
    """
    if settings.database_url is not None:
        owner = settings.migration_database_url or settings.database_url
        role = make_url(settings.database_url).username
        yield Databases(settings.database_url, owner, role if role != make_url(owner).username else None)
        return
    server = EmbeddedPostgres(settings.data_dir, bin_dir=settings.postgres_bin_dir)
    urls = server.start() if for_long else server.start_or_share()
    try:
        role = make_url(urls.service).username
        migrate(urls.owner, role)
        yield Databases(urls.service, urls.owner, role)
    finally:
        server.stop()


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; requests under way and heartbeats taken are finished first.

    Raises :class:`~app.settings.BadSettings` if the port is taken or the database cannot be served from.
    """
    configure_logs(settings.log_format)
    _refuse_taken_port(host, port)
    # The server hands the signal on when it is done with it. By default that would end the process at once, and the
    # embedded database with it, unclean.
    signal.signal(signal.SIGTERM, _leave)
    if settings.bootstrap_admin_key is None:
        log.warning("no_admin_key", detail="TALKTIME_BOOTSTRAP_ADMIN_KEY is not set: every call will be refused")
    for name in settings_without_effect():
        log.warning("setting.without_effect", name=name)
    with database_of(settings, for_long=True) as databases:
        fault = schema_fault(databases.service)
        if fault is not None:
            raise BadSettings(fault)
        service = Service(settings, databases.service)
        config = uvicorn.Config(
            service.app,
            host=host,
            port=port,
            loop="uvloop",
            http="httptools",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        uvicorn.Server(config).run()


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _refuse_taken_port(host: str, port: int) -> None:
    """A message instead of a log line, and before a database is started for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadSettings(f"cannot listen on {host} port {port}: {error.strerror}") from None
