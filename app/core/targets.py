"""Where events may be sent: which URLs are taken for an endpoint, and to which addresses a connection may be made.

Whoever may name a URL that we call could have us call what only we can reach: the loopback interface, the machines
beside us, the metadata service of a cloud. So the form of a URL is narrow, and every address that its name leads to is
held against a list of our own: the language's ``is_global`` lets several addresses pass that lead inside (RFC 6052,
3056 and 4291 write IPv4 addresses into IPv6 ones).
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

MAX_URL: Final = 2048
"""Characters of an endpoint's URL."""

PORTS: Final = frozenset({443, 8443})
"""Ports that events are sent to, unless private targets are allowed."""

_MAX_HOST: Final = 253
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9.-]+))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:[/?][!-~]*)?)",
    re.ASCII | re.IGNORECASE,
)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LIKE_A_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_INSIDE: Final = (".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".home.arpa", ".onion")

_V4_NEVER: Final = {
    "0.0.0.0/8": "this host",
    "100.64.0.0/10": "shared by carriers",
    "168.63.129.16/32": "a cloud's own service",
    "169.254.0.0/16": "link-local",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "for documentation",
    "192.88.99.0/24": "a relay of 6to4",
    "198.18.0.0/15": "for benchmarks",
    "198.51.100.0/24": "for documentation",
    "203.0.113.0/24": "for documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_V4_PRIVATE: Final = {
    "10.0.0.0/8": "private",
    "127.0.0.0/8": "loopback",
    "172.16.0.0/12": "private",
    "192.168.0.0/16": "private",
}
_V6_PRIVATE: Final = {"::1/128": "loopback", "fc00::/7": "private"}
_V6_NEVER: Final = {
    "2001::/23": "reserved",
    "2001:db8::/32": "for documentation",
    "2002::/16": "an IPv4 address within 6to4",
    "3fff::/20": "for documentation",
    # Within what is private: metadata services and their like, of AWS and of Google.
    "fd00:ec2::/32": "a cloud's own service",
    "fd20:ce::/32": "a cloud's own service",
}
_V6_PUBLIC: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")

_Networks = tuple[tuple[IPv4Network | IPv6Network, str], ...]


def _networks(told: dict[str, str]) -> _Networks:
    return tuple((ip_network(text), what) for text, what in told.items())


_NEVER: Final = {4: _networks(_V4_NEVER), 6: _networks(_V6_NEVER)}
_PRIVATE: Final = {4: _networks(_V4_PRIVATE), 6: _networks(_V6_PRIVATE)}


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called, in its parts. ``host`` is lower case, an IPv6 address in it without brackets.

    ``path``: what is asked for, beginning with a slash, the query included. ``literal``: the address, if the host is
    one.
    """

    secure: bool
    host: str
    port: int
    path: str
    literal: Address | None

    @property
    def authority(self) -> str:
        """What stands in the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.secure else 80
        return host if self.port == usual else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A URL or an address that is not called. ``why`` completes "the URL …" or "the address …"."""

    why: str


def read_target(url: str, *, private_ok: bool) -> Target | Refused:
    """The parts of ``url``, or why it is not called.

    ``private_ok``: plain HTTP, any port and names and addresses of the own network will do as well: for development.
    """
    if len(url) > MAX_URL:
        return Refused(f"must have at most {MAX_URL} characters")
    match = _URL.fullmatch(url)
    if match is None or "#" in url or "\\" in url:
        return Refused("must have the form https://host/path, in ASCII, without user, fragment or blanks")
    secure = match["scheme"].lower() == "https"
    if not secure and not private_ok:
        return Refused("must begin with https://")
    port = int(match["port"]) if match["port"] else (443 if secure else 80)
    if not 0 < port < 1 << 16:
        return Refused("must have a port from 1 to 65535")
    if port not in PORTS and not private_ok:
        return Refused(f"must lead to port {' or '.join(map(str, sorted(PORTS)))}")
    path = match["target"] if match["target"].startswith("/") else "/" + match["target"]
    host = _read_v6(match["v6"]) if match["v6"] else _read_name(match["name"].lower(), private_ok=private_ok)
    if isinstance(host, Refused):
        return host
    literal = None if isinstance(host, str) else host
    if literal is not None and (refused := judge(literal, private_ok=private_ok)) is not None:
        return Refused(f"must not lead to {literal}, which is {refused.why}")
    return Target(secure, str(host), port, path, literal)


def judge(address: Address, *, private_ok: bool) -> Refused | None:
    """Why nothing is sent to ``address``; null if something may be."""
    for network, what in _NEVER[address.version]:
        if address in network:
            return Refused(what)
    for network, what in _PRIVATE[address.version]:
        if address in network:
            return None if private_ok else Refused(what)
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            # Where there is no IPv4, the network's own resolver writes public addresses so (RFC 6052, 3.1).
            within = judge(IPv4Address(int(address) & 0xFFFF_FFFF), private_ok=False)
            return None if within is None else Refused(f"an IPv4 address within NAT64 that is {within.why}")
        if address not in _V6_PUBLIC:
            return Refused("not public")
    return None


def _read_v6(text: str) -> IPv6Address | Refused:
    try:
        return IPv6Address(text)
    except ValueError:
        return Refused("must have an IPv6 address in its brackets")


def _read_name(name: str, *, private_ok: bool) -> str | IPv4Address | Refused:
    labels = name.split(".")
    if _LIKE_A_NUMBER.fullmatch(labels[-1]):
        # As resolvers read it, "127.1", "2130706433" and "0x7f.1" are addresses too: only the plain form is taken.
        try:
            return IPv4Address(name)
        except ValueError:
            return Refused("must have a name, or an IPv4 address as four plain numbers")
    if len(name) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        return Refused("must have a host name of letters, digits, hyphens and dots")
    if not private_ok and (len(labels) == 1 or f".{name}".endswith(_INSIDE)):
        return Refused("must have a public host name")
    return name


def read_address(text: str) -> Address | None:
    """An address as a resolver gives it; null if it is none, or has a zone, which only this machine understands."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id else address
