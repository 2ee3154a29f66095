"""One POST to an endpoint by TLS: to the address that was checked, for the name that was asked for."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.core.targets import Target, read_target
from app.deliveries.sending import Answered, NetworkSender, NotAnswered
from tests.support.hooks import Hooks, Reply

pytestmark = pytest.mark.anyio

ENDPOINT = UUID(int=1)


def certificate(name: str, folder: Path) -> Path:
    """A file with a key and its certificate for ``name`` and 127.0.0.2, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{name}.pem"
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


class Secure:
    """A receiver by TLS, and what clients asked it for by SNI."""

    def __init__(self, file: Path) -> None:
        self.hooks = Hooks()
        self.asked_for: list[str | None] = []
        self.trust = ssl.create_default_context(cafile=str(file))
        self.own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.own.load_cert_chain(file)
        self.own.sni_callback = lambda _socket, name, _context: self.asked_for.append(name)


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    made = Secure(certificate("hook.example", tmp_path))
    server = await asyncio.start_server(made.hooks.serve, "127.0.0.1", 0, ssl=made.own)
    made.hooks.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def to_loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def target_of(url: str) -> Target:
    target = read_target(url, private_ok=True)
    assert isinstance(target, Target)
    return target


async def test_the_certificate_must_be_the_names(secure: Secure) -> None:
    sender = NetworkSender(limit_s=5, private_ok=True, resolve=to_loopback, tls=secure.trust)
    url = f"https://hook.example:{secure.hooks.port}/hook"
    assert isinstance(await sender.post(ENDPOINT, target_of(url), {"webhook-id": "evt_1"}, b"{}"), Answered)
    (came,) = secure.hooks.received
    assert came.headers["host"] == f"hook.example:{secure.hooks.port}"
    assert secure.asked_for == ["hook.example"]
    other = f"https://other.example:{secure.hooks.port}/hook"
    refused = await sender.post(ENDPOINT, target_of(other), {}, b"{}")
    await sender.aclose()
    assert isinstance(refused, NotAnswered)
    assert "certificate is not valid" in refused.why
    assert len(secure.hooks.received) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(secure: Secure) -> None:
    sender = NetworkSender(limit_s=5, private_ok=True, resolve=to_loopback)
    url = f"https://hook.example:{secure.hooks.port}/hook"
    refused = await sender.post(ENDPOINT, target_of(url), {}, b"{}")
    await sender.aclose()
    assert isinstance(refused, NotAnswered)
    assert "certificate is not valid" in refused.why
    assert secure.hooks.received == []


async def test_connections_are_kept_while_there_is_work(secure: Secure) -> None:
    sender = NetworkSender(limit_s=5, private_ok=True, resolve=to_loopback, tls=secure.trust)
    target = target_of(f"https://hook.example:{secure.hooks.port}/hook")
    for _ in range(5):
        assert isinstance(await sender.post(ENDPOINT, target, {}, b"{}"), Answered)
    assert secure.hooks.connections == 1
    await sender.forget(ENDPOINT)
    assert isinstance(await sender.post(ENDPOINT, target, {}, b"{}"), Answered)
    assert secure.hooks.connections == 2
    await sender.aclose()


async def test_what_takes_too_long_in_all_is_given_up(secure: Secure) -> None:
    """However it is spread: an answer that drips keeps nobody."""
    sender = NetworkSender(limit_s=0.3, private_ok=True, resolve=to_loopback, tls=secure.trust)
    secure.hooks.behave = lambda _: Reply(200, {"content-length": "1000000"}, b"x")
    target = target_of(f"https://hook.example:{secure.hooks.port}/hook")
    came = await asyncio.wait_for(sender.post(ENDPOINT, target, {}, b"{}"), 3)
    await sender.aclose()
    assert came == NotAnswered("no answer in time")


async def test_nobody_there_is_an_outcome() -> None:
    sender = NetworkSender(limit_s=2, private_ok=True, resolve=to_loopback)
    came = await sender.post(ENDPOINT, target_of("http://nobody.example:1/"), {}, b"{}")
    await sender.aclose()
    assert isinstance(came, NotAnswered)
    assert came.why.startswith("no connection")


async def test_a_name_that_cannot_be_resolved_is_an_outcome() -> None:
    async def lost(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    sender = NetworkSender(limit_s=2, private_ok=False, resolve=lost)
    target = read_target("https://lost.example/", private_ok=False)
    assert isinstance(target, Target)
    came = await sender.post(ENDPOINT, target, {}, b"{}")
    await sender.aclose()
    assert came == NotAnswered("no connection: the name cannot be resolved")


async def test_further_addresses_are_tried_if_the_first_is_dead(secure: Secure) -> None:
    async def two(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.9", "127.0.0.1"]

    sender = NetworkSender(limit_s=5, private_ok=True, resolve=two, tls=secure.trust)
    target = target_of(f"https://hook.example:{secure.hooks.port}/hook")
    assert isinstance(await sender.post(ENDPOINT, target, {}, b"{}"), Answered)
    await sender.aclose()
