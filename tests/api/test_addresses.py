"""Where a webhook may not go, however it is spelled, and whatever a name answers."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from api.addresses import Unreachable, addresses_of, checked_url, is_public
from jobs.errors import InvalidRequest

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.254", "192.0.0.8", "192.0.2.1", "198.18.0.1",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:100.64.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:53aa:64c::1", "fe80::1",
    "fe80::1%lo", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "100::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111",
          "::ffff:8.8.8.8", "64:ff9b::808:808"]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "gopher://hooks.example.com/",
        "hooks.example.com",
        "https://",
        "https:///path",
        "https://user@hooks.example.com/",
        "https://hooks.example.com@127.0.0.1/",
        "https://hooks.example.com/#x",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:70000/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.exam ple.com/",
        "https://hooks.example.com/\n",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://x.localhost/",
        "https://metadata.google.internal/",
        "https://[::1/",
        f"https://hooks.example.com/{'x' * 2048}",
    ],
)
def test_urls_that_are_refused_when_they_are_given(url: str):
    with pytest.raises(InvalidRequest) as refusal:
        checked_url(url, allow_private=False)
    assert refusal.value.param == "url"


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a?b=c",
        "https://hooks.example.com:8443",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]/",
        "HTTPS://hooks.example.com/",
        "https://localhost.example.com/",
    ],
)
def test_urls_that_are_taken(url: str):
    assert checked_url(url, allow_private=False) == url


def test_a_setting_lets_private_ones_in():
    for url in ("http://127.0.0.1:80/", "https://localhost/", "http://db.internal/"):
        assert checked_url(url, allow_private=True) == url
    with pytest.raises(InvalidRequest):
        checked_url("ftp://127.0.0.1/", allow_private=True)


def _resolve(host: str, *, allow_private: bool = False) -> list[str]:
    return asyncio.run(addresses_of(host, 443, allow_private=allow_private))


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f.1", "2130706433", "::ffff:127.0.0.1"])
def test_a_name_is_judged_by_what_it_resolves_to(host: str):
    with pytest.raises(Unreachable, match="not a public address"):
        _resolve(host)
    assert _resolve(host, allow_private=True)


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 64 + ".example", "a..b"])
def test_what_cannot_be_resolved_is_refused(host: str):
    with pytest.raises(Unreachable, match="cannot be resolved"):
        _resolve(host, allow_private=True)


def test_one_private_answer_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch):
    """No name on this host answers so: the resolver is the one thing that is replaced."""

    def answers(*_: Any, **__: Any) -> list[Any]:
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*stream, ("1.1.1.1", 443)), (*stream, ("10.0.0.1", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    with pytest.raises(Unreachable, match=r"10\.0\.0\.1"):
        _resolve("hooks.example.com")
