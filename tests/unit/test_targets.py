"""Where events may be sent: forms of URLs, and addresses."""
# ruff: noqa: E501 - tables of addresses

from ipaddress import ip_address

import pytest

from app.core.targets import MAX_URL, Refused, Target, judge, read_address, read_target

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255",
    "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "2000::1", "2001:200::1", "2606:4700:4700::1111", "2a00:1450:4001::1", "3ffe:ffff::1", "64:ff9b::101:101",
]  # fmt: skip
PRIVATE = [
    "10.0.0.0", "10.255.255.255", "127.0.0.1", "127.255.255.254", "172.16.0.0", "172.31.255.255", "192.168.0.0",
    "192.168.255.255", "::1", "fc00::1", "fd00:ec1::254", "fd00:ec3::", "fd20:cd::254", "fdff::1",
]  # fmt: skip
NEVER = [
    "0.0.0.0", "0.1.2.3", "100.64.0.0", "100.100.100.200", "100.127.255.255", "168.63.129.16", "169.254.0.0",
    "169.254.169.254", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.0", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::2", "::ffff:1.1.1.1", "::ffff:127.0.0.1", "::127.0.0.1", "::1.1.1.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "1fff::1", "2001::1", "2001:0:4136:e378::1", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:1ff:ffff::1", "2001:db8::1", "2002:7f00:1::1", "2002:101:101::1", "3fff::1", "4000::1", "5f00::1",
    "fe80::1", "fec0::1", "ff02::1", "ff0e::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_open(text: str) -> None:
    assert judge(ip_address(text), private_ok=False) is None
    assert judge(ip_address(text), private_ok=True) is None


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_open_to_development_only(text: str) -> None:
    assert judge(ip_address(text), private_ok=False) is not None
    assert judge(ip_address(text), private_ok=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_these_addresses_are_always_closed(text: str) -> None:
    assert judge(ip_address(text), private_ok=False) is not None
    assert judge(ip_address(text), private_ok=True) is not None


def test_an_address_is_read_without_a_zone() -> None:
    assert read_address("fe80::1%eth0") is None
    assert read_address("example.com") is None
    assert read_address("2606:4700::1") == ip_address("2606:4700::1")


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("HTTPS://Example.COM/Hook", "example.com", 443, "/Hook", "example.com"),
        ("https://example.com:8443/a?b=c", "example.com", 8443, "/a?b=c", "example.com:8443"),
        ("https://example.com?b=c", "example.com", 443, "/?b=c", "example.com"),
        ("https://xn--bcher-kva.example/%20", "xn--bcher-kva.example", 443, "/%20", "xn--bcher-kva.example"),
        ("https://1.1.1.1/", "1.1.1.1", 443, "/", "1.1.1.1"),
        ("https://[2606:4700:4700:0:0:0:0:1111]/", "2606:4700:4700::1111", 443, "/", "[2606:4700:4700::1111]"),
        ("https://example.com/a@b:c", "example.com", 443, "/a@b:c", "example.com"),
    ],
)
def test_a_url_is_read_in_its_parts(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = read_target(url, private_ok=False)
    assert isinstance(target, Target)
    assert (target.secure, target.host, target.port, target.path, target.authority) == (
        *(True, host, port, path, authority),
    )
    assert read_target(target.url, private_ok=False) == target


@pytest.mark.parametrize(
    "url", ["http://localhost:3000/hook", "http://127.0.0.1/", "http://api/", "https://10.0.0.1:9/"]
)
def test_development_may_send_to_its_own_network(url: str) -> None:
    assert isinstance(read_target(url, private_ok=True), Target)
    assert isinstance(read_target(url, private_ok=False), Refused)


@pytest.mark.parametrize("url", ["https://example.com/" + "a" * MAX_URL, "https://" + "a." * 130 + "example/"])
def test_what_is_too_long_is_refused(url: str) -> None:
    assert isinstance(read_target(url, private_ok=True), Refused)
