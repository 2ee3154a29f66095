"""Nothing that an endpoint's URL can say reaches what only this machine can: each vector against a canary on loopback.

A vector is tried in every way that an endpoint has: as a URL that is to be taken, as one that was taken before and is
sent to, and its host alone against the network layer at the canary's own port, as if the rules of forms and ports were
not there. The canary must be reached by whoever may reach it, so that a test which reaches nothing is seen.
"""

# ruff: noqa: E501 - a table of hosts

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import httpcore
import pytest

from app.core.targets import Refused, Target, read_target
from app.deliveries.guard import MOST_ADDRESSES, GuardedNetwork, Resolve, Resolver, TargetRefused
from app.deliveries.sending import Answered, NetworkSender, NotAnswered
from tests.support.hooks import Received, Reply, hooks

pytestmark = pytest.mark.anyio

ENDPOINT = UUID(int=1)

HOSTS = [
    # loopback, in each way that somebody reads it
    "127.0.0.1", "127.0.0.2", "127.1", "127.0.1", "127.255.255.254", "localhost", "LOCALHOST", "localhost.", "a.localhost",
    "localhost.localdomain", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "0177.0.0.1", "0177.1", "017700000001",
    "00000177.0.0.1", "127.0.0.01", "127.0.0.1.", "127.0.0.1%20", "127.0.0.1%00", "0", "0.0.0.0", "0.0.0.1", "00",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::1%25lo]", "[::1%lo]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:1::1]", "[2001:0:7f00:1::80ff:fffe]", "[::ffff:0:127.0.0.1]",
    # letters and dots that look or fold like others
    "１２７.０.０.１", "127。0。0。1", "127．0．0．1", "①②⑦.⓪.⓪.①", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "lоcalhost", "localhoſt", "loc\u00adalhost",
    # the network around, and clouds
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "[fe80::1]", "[fc00::1]", "100.100.100.200", "192.0.0.192",
    "168.63.129.16", "metadata", "metadata.google.internal", "kubernetes.default.svc.cluster.local", "printer.local",
    "224.0.0.1", "255.255.255.255", "[ff02::1]", "[ff01::1]",
    # two readings of one text
    "example.com@127.0.0.1", "127.0.0.1#@example.com", "127.0.0.1\\@example.com", "example.com:80@127.0.0.1",
    "127.0.0.1:443:80", "127.0.0.1\t", "127.0.0.1\r\nHost: example.com", " 127.0.0.1", "127.0.0.1\x00.example.com",
    "[127.0.0.1]", "[::1", "::1", "",
]  # fmt: skip

SCHEMES = ["http", "ftp", "file", "gopher", "dict", "ws", "wss", "unix", "httpſ", "https\t", "//", "javascript", "data"]

NAMES = {
    # What names of others lead to: no form tells it.
    "localtest.example": ["127.0.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "compatible.example": ["::127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "sixtofour.example": ["2002:7f00:1::1"],
    "any.example": ["0.0.0.0"],
    "any6.example": ["::"],
    "zone.example": ["fe80::1%lo"],
    "inside-second.example": ["1.1.1.1", "127.0.0.1"],
    "inside-first.example": ["127.0.0.1", "1.1.1.1"],
    "inside-last.example": [*(f"1.1.1.{n}" for n in range(9)), "10.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "many.example": [f"1.1.{n}.1" for n in range(MOST_ADDRESSES + 1)],
    "odd.example": ["not an address"],
    "none.example": [],
}


@dataclass
class Canary:
    """Counts whoever comes near it, over IPv4 and IPv6, at one port."""

    port: int = 0
    reached: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.append(str(writer.get_extra_info("sockname")))
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret")
            await writer.drain()
        writer.close()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    made = Canary()
    first = await asyncio.start_server(made.serve, "0.0.0.0", 0)
    made.port = first.sockets[0].getsockname()[1]
    servers = [first]
    with suppress(OSError):  # a machine without IPv6
        servers.append(await asyncio.start_server(made.serve, "::", made.port))
    yield made
    for server in servers:
        server.close()


def leads_to(*answers: Sequence[str]) -> Resolve:
    """A resolver that answers with each of ``answers`` in turn, and with the last one from then on."""
    left: Iterator[Sequence[str]] = iter(answers)
    last: Sequence[str] = answers[-1]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return next(left, last)

    return resolve


def test_the_corpus_is_as_large_as_is_told() -> None:
    assert len(set(HOSTS)) + len(SCHEMES) + len(NAMES) >= 100


async def try_to_reach(url: str, host: str, canary: Canary) -> None:
    """What an endpoint at ``url`` would do, and the network layer for ``host`` with nothing before it."""
    sender = NetworkSender(limit_s=2, private_ok=False)
    try:
        target = read_target(url, private_ok=False)
        if isinstance(target, Target):
            await sender.post(ENDPOINT, target, {}, b"{}")
    finally:
        await sender.aclose()
    network = GuardedNetwork(Resolver(), private_ok=False)
    with pytest.raises((TargetRefused, httpcore.ConnectError, httpcore.ConnectTimeout, UnicodeError)):
        await network.connect_tcp(host.strip("[]"), canary.port, timeout=2)


@pytest.mark.parametrize("host", HOSTS, ids=repr)
async def test_no_host_leads_inside(host: str, canary: Canary) -> None:
    url = f"https://{host}:{canary.port}/"
    assert isinstance(read_target(url, private_ok=False), Refused), "the port is none of those"
    assert isinstance(read_target(f"https://{host}/", private_ok=False), Refused)
    await try_to_reach(url, host, canary)
    assert canary.reached == []


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_other_scheme_is_taken(scheme: str) -> None:
    assert isinstance(read_target(f"{scheme}://example.com/", private_ok=False), Refused)


@pytest.mark.parametrize("name", NAMES)
async def test_no_name_leads_inside(name: str, canary: Canary) -> None:
    network = GuardedNetwork(leads_to(NAMES[name]), private_ok=False)
    with pytest.raises((TargetRefused, httpcore.ConnectError)):
        await network.connect_tcp(name, canary.port, timeout=1)
    assert canary.reached == []


async def test_all_addresses_of_a_name_must_be_allowed(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that leads outside and inside is called at neither: whoever tries them in turn would come inside."""
    tried: list[str] = []

    async def nowhere(self: object, host: str, **_: object) -> httpcore.AsyncNetworkStream:
        tried.append(host)
        raise httpcore.ConnectError("nobody is there")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", nowhere)
    for addresses in (["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["1.1.1.1", "8.8.8.8", "10.0.0.1"]):
        network = GuardedNetwork(leads_to(addresses), private_ok=False)
        with suppress(TargetRefused, httpcore.ConnectError):
            await network.connect_tcp("both.example", canary.port, timeout=1)
        assert tried == [], addresses


async def test_a_name_that_leads_elsewhere_a_moment_later_changes_nothing(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: each connection is made to what was looked at, and looked at anew."""
    tried: list[str] = []

    async def nowhere(self: object, host: str, **_: object) -> httpcore.AsyncNetworkStream:
        tried.append(host)
        raise httpcore.ConnectError("nobody is there")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", nowhere)
    network = GuardedNetwork(leads_to(["1.1.1.1"], ["127.0.0.1"]), private_ok=False)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("rebinding.example", canary.port, timeout=1)
    for _ in range(3):
        with pytest.raises(TargetRefused):
            await network.connect_tcp("rebinding.example", canary.port, timeout=1)
    assert tried == ["1.1.1.1"]
    assert canary.reached == []


async def test_one_look_up_serves_one_connection(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library and the loop below never resolve a name of their own: there is no second answer to be had."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a second look-up")

    network = GuardedNetwork(leads_to(["127.0.0.1"], ["192.0.2.1"]), private_ok=True)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    stream = await network.connect_tcp("localtest.example", canary.port, timeout=1)
    await stream.aclose()
    assert len(canary.reached) == 1


async def test_the_peer_is_looked_at_again(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a layer below connect to something else than it was told, nothing is sent there."""
    plain_connect = httpcore.AnyIOBackend.connect_tcp

    async def astray(self: httpcore.AnyIOBackend, host: str, port: int, **_: object) -> httpcore.AsyncNetworkStream:
        return await plain_connect(self, "127.0.0.1", port)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", astray)
    network = GuardedNetwork(leads_to(["1.1.1.1"]), private_ok=False)
    with pytest.raises(TargetRefused):
        await network.connect_tcp("example.com", canary.port, timeout=1)


def _redirect(reply: Reply, _: Received) -> Reply:
    return reply


async def test_a_redirect_is_not_followed(canary: Canary) -> None:
    async with hooks() as receiver:
        sender = NetworkSender(limit_s=2, private_ok=True)
        for status in (301, 302, 303, 307, 308):
            to = {"location": f"http://127.0.0.1:{canary.port}/"}
            receiver.behave = partial(_redirect, Reply(status, to))
            target = read_target(receiver.url(), private_ok=True)
            assert isinstance(target, Target)
            came = await sender.post(ENDPOINT, target, {}, b"{}")
            assert isinstance(came, Answered)
            assert came.status == status
        await sender.aclose()
    assert canary.reached == []


async def test_no_proxy_of_the_environment_is_used(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    async with hooks() as receiver:
        sender = NetworkSender(limit_s=2, private_ok=True)
        target = read_target(receiver.url(), private_ok=True)
        assert isinstance(target, Target)
        assert isinstance(await sender.post(ENDPOINT, target, {}, b"{}"), Answered)
        await sender.aclose()
        assert len(receiver.received) == 1
    assert canary.reached == []


async def test_the_canary_can_be_reached(canary: Canary) -> None:
    sender = NetworkSender(limit_s=2, private_ok=True)
    target = read_target(f"http://localhost:{canary.port}/", private_ok=True)
    assert isinstance(target, Target)
    came = await sender.post(ENDPOINT, target, {}, b"{}")
    await sender.aclose()
    assert came == Answered(200, None, b"secret")
    assert len(canary.reached) == 1


async def test_a_refusal_tells_nothing_of_the_network(canary: Canary) -> None:
    sender = NetworkSender(limit_s=2, private_ok=False, resolve=leads_to(["10.1.2.3"]))
    target = read_target("https://inside.example/", private_ok=False)
    assert isinstance(target, Target)
    came = await sender.post(ENDPOINT, target, {}, b"{}")
    await sender.aclose()
    assert isinstance(came, NotAnswered)
    assert came.why == "not sent: the name leads to an address that is private"


async def test_a_name_whose_resolver_hangs_holds_up_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    release, plain = threading.Event(), socket.getaddrinfo
    asked: list[str] = []

    def hanging(host: str, port: int, **more: object) -> object:
        asked.append(host)
        if host == "hangs.example":
            release.wait(10)
            raise socket.gaierror
        return plain("127.0.0.1", port, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    resolve = Resolver()
    stuck = [asyncio.create_task(resolve("hangs.example", 443)) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert asked == ["hangs.example"]
    for n in range(50):
        assert list(await asyncio.wait_for(resolve(f"well-{n}.example", 443), 2)) == ["127.0.0.1"]
    release.set()
    failed = await asyncio.gather(*stuck, return_exceptions=True)
    assert {type(one) for one in failed} == {socket.gaierror}
