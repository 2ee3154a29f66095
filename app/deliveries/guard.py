"""Connections to where customers want their events: to addresses that were checked, and to no others.

A name is resolved here, at each connection. All addresses that it leads to must be allowed (:mod:`app.core.targets`),
and the connection goes to one of those that were looked at: a name that leads elsewhere a moment later changes nothing.
TLS asks for the certificate of the name all the same.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import httpcore

from app.core.targets import Address, judge, read_address

MOST_ADDRESSES: Final = 32
"""A name that leads to more is nobody's who means well."""

TRIED: Final = 3
"""So many of a name's addresses are tried, one after the other."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses that a name leads to, as text. Raises ``OSError``."""


class TargetRefused(Exception):
    """Nothing is sent there: the message says why, and names no address of the network that we are in."""


class Resolver:
    """Asks the machine's resolver, in a thread of its own for each name.

    It may keep us waiting for half a minute, and cannot be called back. So whoever asks for the same name meanwhile
    waits for the same answer: a name holds up one thread, and no pool that others wait for.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        key = host, port
        asked = self._asked.get(key)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[key] = loop.create_future()
            # Nobody may be left to hear what went wrong.
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            threading.Thread(target=self._ask, args=(loop, key), name="resolve an endpoint", daemon=True).start()
        return await asyncio.shield(asked)

    def _ask(self, loop: asyncio.AbstractEventLoop, key: tuple[str, int]) -> None:
        found: Sequence[str] | OSError
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(*key, type=socket.SOCK_STREAM)]
        except OSError as error:
            found = error
        except UnicodeError as error:
            found = OSError(str(error))
        try:
            loop.call_soon_threadsafe(self._tell, key, found)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _tell(self, key: tuple[str, int], found: Sequence[str] | OSError) -> None:
        asked = self._asked.pop(key)
        if asked.done():
            return
        if isinstance(found, OSError):
            asked.set_exception(found)
        else:
            asked.set_result(found)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects as the library does, but to checked addresses only. ``private_ok``: see :func:`judge`."""

    def __init__(self, resolve: Resolve, *, private_ok: bool) -> None:
        self._resolve = resolve
        self._private_ok = private_ok
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises :class:`TargetRefused` if any address is not allowed, ``httpcore.ConnectError`` if none answers."""
        addresses = await self._addresses(host, port)
        reach = partial(self._plain.connect_tcp, port=port, timeout=timeout, socket_options=socket_options)
        failure: Exception = httpcore.ConnectError("the name leads nowhere")
        for address in addresses[:TRIED]:
            try:
                stream = await reach(str(address))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            await self._check_peer(stream)
            return stream
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise TargetRefused("no endpoint is a file")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        literal = read_address(host)
        try:
            found = [str(literal)] if literal is not None else await self._resolve(host, port)
        except OSError:
            raise httpcore.ConnectError("the name cannot be resolved") from None
        addresses = list(dict.fromkeys(read_address(text) for text in found))
        if len(addresses) > MOST_ADDRESSES:
            raise TargetRefused(f"the name leads to more than {MOST_ADDRESSES} addresses")
        return [self._checked(address) for address in addresses]

    def _checked(self, address: Address | None) -> Address:
        refused = None if address is None else judge(address, private_ok=self._private_ok)
        if address is None or refused is not None:
            # All of them must be allowed: a name that leads outside and inside at once is up to something.
            what = "of this machine's own" if refused is None else refused.why
            raise TargetRefused(f"the name leads to an address that is {what}")
        return address

    async def _check_peer(self, stream: httpcore.AsyncNetworkStream) -> None:
        """What we are connected to is what was looked at; should the layers below ever see that otherwise."""
        peer = stream.get_extra_info("server_addr")
        address = read_address(str(peer[0])) if isinstance(peer, tuple) and peer else None
        if address is None or judge(address, private_ok=self._private_ok) is not None:
            await stream.aclose()
            raise TargetRefused("the connection led to an address that is not allowed")
