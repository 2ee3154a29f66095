"""Running things: the database that the settings name, and the server around the service."""

import asyncio
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

import structlog
import uvicorn
from sqlalchemy import make_url

from app.core.units import US_PER_S
from app.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, keep_running
from app.db.migrate import migrate, schema_fault
from app.http.headers import headers_of
from app.http.wire import protocol_of
from app.logs import configure_logs
from app.service import Service
from app.settings import BadSettings, Settings

log = structlog.get_logger(__name__)

DRAIN_S: Final = 20
"""Requests under way when the service is told to stop have so long to end."""


@dataclass(frozen=True, slots=True)
class Databases:
    """The service's URL, the owner's for migrations, and the role that the owner grants rights to."""

    service: str
    owner: str
    service_role: str | None
    embedded: EmbeddedPostgres | None = None


@contextmanager
def database_of(
    settings: Settings, *, for_long: bool = False, existing: bool = False, anew: bool = False
) -> Iterator[Databases]:
    """The database that the settings name; without one the embedded server, brought to this version's schema.

    ``for_long``: own the embedded server rather than share that of a command which may end first. ``existing``: make no
    new one, but raise :class:`~app.db.embedded.EmbeddedPostgresError` where there is none. ``anew``: own an embedded
    one that is empty, whatever it held. Must be entered in the main thread, before an event loop runs.
    """
    if settings.database_url is not None:
        owner = settings.migration_database_url or settings.database_url
        role = make_url(settings.database_url).username
        yield Databases(settings.database_url, owner, role if role != make_url(owner).username else None)
        return
    server = EmbeddedPostgres(settings.data_dir, bin_dir=settings.postgres_bin_dir)
    if existing and not server.has_cluster:
        raise EmbeddedPostgresError(
            f"there is no database in {settings.data_dir.absolute()}: name its folder with TALKTIME_DATA_DIR "
            "(or --data-dir), or a server of your own with TALKTIME_DATABASE_URL"
        )
    urls = server.start(anew=anew) if for_long or anew else server.start_or_share()
    try:
        role = make_url(urls.service).username
        migrate(urls.owner, role)
        yield Databases(urls.service, urls.owner, role, server)
    finally:
        server.stop()


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; requests under way and heartbeats taken are finished first.

    An embedded database that ends meanwhile is started again. Raises :class:`~app.settings.BadSettings` if the port is
    taken or the database cannot be served from, :class:`~app.db.embedded.EmbeddedPostgresError` if the embedded one
    cannot be kept running: serving ends then, in order.
    """
    configure_logs(settings.log_format)
    _refuse_taken_port(host, port)
    # The server hands the signal on when it is done with it. By default that would end the process at once, and the
    # embedded database with it, unclean.
    signal.signal(signal.SIGTERM, _leave)
    if settings.bootstrap_admin_key is None:
        log.info("no_bootstrap_key", detail="calls need an API key (talktime keys create) or a user token")
    with database_of(settings, for_long=True) as databases:
        fault = schema_fault(databases.service)
        if fault is not None:
            raise BadSettings(fault)
        service = Service(settings, databases.service, open_files=_open_files())
        service.api_document  # noqa: B018 - made now: a call that is not described must not be served
        config = uvicorn.Config(
            service.app,
            host=host,
            port=port,
            loop="uvloop",
            http=protocol_of(settings.receive_timeout_s / US_PER_S, headers_of(settings.public_url)),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,  # the server would believe whoever calls from this machine; ours asks the settings
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        server = _Server(config, databases.embedded, service.live.stop)
        server.run()
        if server.failure is not None:
            raise server.failure


class _Server(uvicorn.Server):
    """The server, and the embedded database kept running beside it; it ends with ``failure`` if that is given up."""

    def __init__(
        self, config: uvicorn.Config, embedded: EmbeddedPostgres | None, end_streams: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._embedded = embedded
        self._end_streams = end_streams
        self.failure: BaseException | None = None

    async def main_loop(self) -> None:
        if self._embedded is None:
            await super().main_loop()
            return
        keeper = asyncio.create_task(keep_running(self._embedded), name="keep-postgres-running")
        keeper.add_done_callback(self._given_up)
        try:
            await super().main_loop()
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Before the server waits for requests under way: a stream is one that does not end by itself.
        await self._end_streams()
        await super().shutdown(sockets)

    def _given_up(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled():
            self.failure = keeper.exception()
            self.should_exit = True


def _open_files() -> int | None:
    """How many files this process may have open, which is as many as the system lets it have; null: no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return None if soft == resource.RLIM_INFINITY else soft
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


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
