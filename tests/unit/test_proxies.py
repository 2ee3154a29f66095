"""Who a request comes from: a proxy of ours is believed, nobody else is."""

from ipaddress import ip_network

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.http.proxies import BehindProxies

PEER, INNER, OUTER = "127.0.0.1", "10.0.0.7", "2001:db8::7"
OURS = tuple(ip_network(text) for text in ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        pytest.param("203.0.113.9", ["198.51.100.1"], "203.0.113.9", id="a stranger says what it likes"),
        pytest.param(PEER, [], PEER, id="a proxy that says nothing"),
        pytest.param(PEER, ["198.51.100.1"], "198.51.100.1", id="its client"),
        pytest.param(PEER, ["6.6.6.6, 198.51.100.1"], "198.51.100.1", id="what the client says itself comes before"),
        pytest.param(PEER, ["6.6.6.6", "198.51.100.1"], "198.51.100.1", id="in a field of its own"),
        pytest.param(PEER, [f"6.6.6.6, 198.51.100.1, {OUTER}, {INNER}"], "198.51.100.1", id="through several"),
        pytest.param(PEER, [f"{OUTER},{INNER}"], OUTER, id="one of ours itself"),
        pytest.param(PEER, ["198.51.100.1, <script>"], PEER, id="no address"),
        pytest.param(PEER, [f"198.51.100.1, unknown, {INNER}"], INNER, id="none before an inner one"),
        pytest.param(PEER, ["198.51.100.1, "], PEER, id="nothing"),
        pytest.param(PEER, ["a" * 5_000], PEER, id="something long"),
        pytest.param(PEER, ["198.51.100.1:4711"], "198.51.100.1", id="with a port"),
        pytest.param(PEER, ["[2001:DB9:0::1]:4711"], "2001:db9::1", id="with brackets, written shortest"),
        pytest.param(PEER, ["fe80::1%<script>" + "x" * 99], "fe80::1", id="with a zone"),
        pytest.param("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1", id="a socket for both families"),
        pytest.param("testclient", ["198.51.100.1"], "testclient", id="a peer without an address"),
    ],
)
def test_who_calls(peer: str, forwarded: list[str], client: str) -> None:
    assert BehindProxies(nobody, OURS).client_of(peer, forwarded) == client


def test_without_proxies_nobody_is_believed() -> None:
    assert BehindProxies(nobody, ()).client_of(PEER, ["198.51.100.1"]) == PEER


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("not called")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("peer", "expected"), [((PEER, 1234), ("198.51.100.1", 0)), (("8.8.8.8", 1234), ("8.8.8.8", 1234)), (None, None)]
)
async def test_the_application_sees_the_client(peer: tuple[str, int] | None, expected: tuple[str, int] | None) -> None:
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": "http", "client": peer, "headers": [(b"x-forwarded-for", b"198.51.100.1")]}
    await BehindProxies(application, OURS)(scope, receive, send)
    assert [one["client"] for one in seen] == [expected]
