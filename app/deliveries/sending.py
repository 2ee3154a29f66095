"""One POST to an endpoint, and what came back: bounded in time and size, never an exception.

No redirect is followed, no proxy of the environment is used, no cookie kept.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import httpcore

from app.core.targets import Target
from app.deliveries.guard import GuardedNetwork, Resolve, Resolver, TargetRefused

PLACES: Final = 4
"""Deliveries to one endpoint that one process makes at a time, and connections that it keeps to it."""

KEPT_BYTES: Final = 4_096
"""What is kept of an answer's body."""

DRAINED_BYTES: Final = 64 * 1024
"""A longer body costs its connection: it is not read to its end."""

IDLE_S: Final = 5.0
"""A connection that was idle for longer is not used again."""

MAX_ERROR: Final = 200


@dataclass(frozen=True, slots=True)
class Answered:
    """``retry_after``: the header of that name, as it stands. ``body``: its first :data:`KEPT_BYTES` bytes."""

    status: int
    retry_after: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """``why`` is fit to be stored and shown: what went wrong, and nothing of the request."""

    why: str


class Sender(Protocol):
    """How deliveries leave the process."""

    async def post(
        self, endpoint_id: UUID, target: Target, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotAnswered: ...

    async def forget(self, endpoint_id: UUID) -> None:
        """Close the connections to an endpoint to which nothing is under way."""
        ...

    async def aclose(self) -> None: ...


class NetworkSender:
    """Over the network; a pool of connections for each endpoint, so that none waits for another's.

    ``limit_s``: real time for one delivery, from resolving the name to the last byte that is read.
    """

    def __init__(
        self,
        *,
        limit_s: float,
        private_ok: bool,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limit_s = limit_s
        self._network = GuardedNetwork(resolve or Resolver(), private_ok=private_ok)
        self._tls = tls
        self._pools: dict[UUID, httpcore.AsyncConnectionPool] = {}

    async def post(
        self, endpoint_id: UUID, target: Target, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotAnswered:
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._exchange(self._pool(endpoint_id), target, headers, body)
        except TargetRefused as refused:
            return NotAnswered(f"not sent: {refused}"[:MAX_ERROR])
        except (TimeoutError, httpcore.TimeoutException):
            return NotAnswered("no answer in time")
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
            return NotAnswered("the answer is no HTTP")
        except httpcore.ConnectError as error:
            return NotAnswered(f"no connection: {_reason(error)}"[:MAX_ERROR])
        except (httpcore.NetworkError, ssl.SSLError, OSError) as error:
            return NotAnswered(f"the connection broke: {type(error).__name__}"[:MAX_ERROR])

    async def _exchange(
        self, pool: httpcore.AsyncConnectionPool, target: Target, headers: Mapping[str, str], body: bytes
    ) -> Answered:
        told = {"host": target.authority, "content-length": str(len(body)), **headers}
        url = httpcore.URL(
            scheme="https" if target.secure else "http", host=target.host, port=target.port, target=target.path
        )
        named = [(name.encode(), value.encode()) for name, value in told.items()]
        async with pool.stream("POST", url, headers=named, content=body) as response:
            kept, size = bytearray(), 0
            async for chunk in response.aiter_stream():
                kept += chunk[: KEPT_BYTES - len(kept)]
                size += len(chunk)
                if size > DRAINED_BYTES:
                    break
            waits = [value.decode("latin-1") for name, value in response.headers if name.lower() == b"retry-after"]
            return Answered(response.status, waits[0].strip() if waits else None, bytes(kept))

    def _pool(self, endpoint_id: UUID) -> httpcore.AsyncConnectionPool:
        pool = self._pools.get(endpoint_id)
        if pool is None:
            if self._tls is None:
                self._tls = httpcore.default_ssl_context()
            pool = self._pools[endpoint_id] = httpcore.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=PLACES,
                max_keepalive_connections=PLACES,
                keepalive_expiry=IDLE_S,
                network_backend=self._network,
            )
        return pool

    async def forget(self, endpoint_id: UUID) -> None:
        pool = self._pools.pop(endpoint_id, None)
        if pool is not None:
            await pool.aclose()

    async def aclose(self) -> None:
        for endpoint_id in list(self._pools):
            await self.forget(endpoint_id)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error.__context__ or error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid for it: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "TLS could not be agreed on"
    if isinstance(cause, ConnectionRefusedError):
        return "it was refused"
    return str(error) if isinstance(error, httpcore.ConnectError) and "name" in str(error) else "nobody is there"
