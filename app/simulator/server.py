"""Runs the simulated provider as a real HTTP server."""

import socket
from collections.abc import Callable
from typing import Final

import uvicorn

from app.simulator.answers import CuttableProtocol
from app.simulator.config import SimulatorConfig
from app.simulator.web import app
from app.simulator.world import World

STOP_WITHIN_S: Final = 1
"""Requests under way, hanging ones above all, are given so long when the server stops."""


class Simulator:
    """One server; :attr:`url` is valid from the start, as the address is taken before the server runs.

    Raises ``OSError`` if the address is taken by another.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.world = World(config)
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        # The protocol is named because asyncio switches Nagle's algorithm off only where it is: without it each answer,
        # written in two parts, waits 40 ms for the client's delayed acknowledgement.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((config.host, config.port))
        except OSError:
            self._socket.close()
            raise
        self._socket.listen(2048)
        port = self._socket.getsockname()[1]
        self.url = f"http://[{config.host}]:{port}" if ":" in config.host else f"http://{config.host}:{port}"
        settings = uvicorn.Config(
            app(self.world),
            http=CuttableProtocol,
            ws="none",
            # Its access log would print nothing that is not in /sim/sessions, and slow the server down.
            access_log=False,
            log_level="critical",
            timeout_graceful_shutdown=STOP_WITHIN_S,
            server_header=False,
        )
        self._server = _Server(settings)

    async def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until :meth:`stop`, or a signal when run on the main thread; ``on_ready`` is called once it listens."""
        self._server.on_ready = on_ready
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Stop soon; may be called from any thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    on_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()


async def serve(config: SimulatorConfig, on_ready: Callable[[Simulator], None] = lambda _: None) -> None:
    """Run a simulated provider until it is told to stop; ``on_ready`` receives it once it listens."""
    simulator = Simulator(config)
    await simulator.serve(lambda: on_ready(simulator))
