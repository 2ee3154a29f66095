"""Who a request comes from where proxies stand before the service: only those that are named are believed."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

FORWARDED_FOR: Final = "x-forwarded-for"


class BehindProxies:
    """Takes the address of the client from ``X-Forwarded-For`` where the peer is one of ``proxies``.

    Each proxy adds whoever it was called by at the end, so the list is read from there: the first one that is no proxy
    of ours is the client, and what stands before it is only what that one says. What is no address ends the list.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[IPv4Network | IPv6Network]) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") is not None:
            host, port = scope["client"]
            address = self.client_of(host, Headers(scope=scope).getlist(FORWARDED_FOR))
            scope = {**scope, "client": (address, port if address == host else 0)}
        await self._app(scope, receive, send)

    def client_of(self, peer: str, forwarded: Sequence[str]) -> str:
        """The client's address: ``peer``'s unless that is a proxy of ours; ``forwarded``: the fields, in order."""
        client = peer
        told = ",".join(forwarded).split(",")
        while self._is_ours(client) and told:
            address = _address(told.pop())
            if address is None:
                break
            client = str(address)
        return client

    def _is_ours(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._proxies)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, as some proxies write it: with a port, an IPv6 one in brackets or not."""
    text = text.strip(" \t")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])  # a zone says something to that machine alone, and may be any text
    except ValueError:
        return None
    # What comes by IPv4 through a socket for both is the IPv4 address that it was.
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
