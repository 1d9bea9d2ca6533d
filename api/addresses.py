"""Where a webhook may go: not into the network that this server stands in.

A URL is looked at when it is given, and its name is resolved and looked at before every request,
which then goes to the very address that was looked at: a name that answers differently the next
time leads nowhere. Nothing is sent to a name that cannot be resolved.
"""

import asyncio
import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

from jobs.errors import InvalidRequest, JobsError

_MAX_URL_CHARS = 2048
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carriers' own
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "::/96",  # IPv4 in the old way
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",  # Teredo and others
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAMES = re.compile(r"(.*\.)?(localhost|local|internal|localdomain)\.?", re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Unreachable(JobsError):  # noqa: N818 - as the rest of the tree
    """Nothing can be sent there; the message says why."""


def checked_url(url: str, *, allow_private: bool) -> str:
    """The URL of a webhook endpoint, as far as it can be judged without asking anybody.

    Raises:
        InvalidRequest: Nothing could be sent to it.
    """
    problem = _problem(url, allow_private=allow_private)
    if problem is not None:
        raise InvalidRequest(f"url: {url[:100]!r} {problem}", param="url")
    return url


def is_public(address: Address) -> bool:
    """Whether an address belongs to the Internet at large."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    special = address.is_multicast or address.is_reserved or not address.is_global
    return not special and not any(address in network for network in _NOT_PUBLIC)


async def addresses_of(host: str, port: int, *, allow_private: bool) -> list[str]:
    """What `host` resolves to now, all of it looked at.

    Raises:
        Unreachable: The name is unknown, or leads to an address that is not public.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the name {host!r} cannot be resolved: {error}") from error
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:
        if not allow_private and not is_public(ipaddress.ip_address(address)):
            raise Unreachable(f"{host!r} leads to {address}, which is not a public address")
    return addresses


def _problem(url: str, *, allow_private: bool) -> str | None:
    if len(url) > _MAX_URL_CHARS or not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        return f"is not a URL of at most {_MAX_URL_CHARS} visible ASCII characters"
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return "is not a URL that can be read"
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes or not parts.hostname or not has_port:
        return f"should begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and a host"
    return _problem_of_parts(parts, parts.hostname, allow_private=allow_private)


def _problem_of_parts(parts: SplitResult, host: str, *, allow_private: bool) -> str | None:
    if "@" in parts.netloc or parts.fragment:
        return "should have no user, password or fragment"
    address = _literal(host)
    is_private = _LOCAL_NAMES.fullmatch(host) or (address and not is_public(address))
    if is_private and not allow_private:
        return "leads to an address that is not public"
    return None


def _literal(host: str) -> Address | None:
    """The address that `host` spells out, in any of the ways a resolver reads one."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
