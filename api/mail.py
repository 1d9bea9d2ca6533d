"""Sends a webhook: once, to an address that was looked at, within ten seconds in all.

Apart from the courier, because what it is made with is loaded when there is something to send.
"""

import asyncio
import ssl
import time
from urllib.parse import urlsplit

import certifi
import httpx

from api.addresses import Unreachable, addresses_of, checked_url
from jobs.errors import InvalidRequest
from jobs.service.webhooks import Parcel

_TIMEOUT_SECONDS = 10


class Mail:
    """A client that follows nothing, keeps nothing and trusts no proxy of the environment."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        # A kept connection would be used for another name at the same address, unchecked.
        limits = httpx.Limits(max_keepalive_connections=0)
        # The system's authorities, where there are any (an own one is among them), and the usual.
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(certifi.where())
        self._client = httpx.AsyncClient(
            verify=trusted,
            timeout=_TIMEOUT_SECONDS,
            limits=limits,
            trust_env=False,
            follow_redirects=False,
        )

    async def post(self, parcel: Parcel) -> int:
        """The status that the endpoint replies; its body is not read.

        Raises:
            Unreachable: There was no reply in time, or nothing may be sent there.
        """
        try:
            checked_url(parcel.url, allow_private=self._allow_private)
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await self._post(parcel)
        except TimeoutError:
            raise Unreachable(f"there was no reply within {_TIMEOUT_SECONDS} seconds") from None
        except InvalidRequest as error:
            raise Unreachable(error.message) from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, parcel: Parcel) -> int:
        parts = urlsplit(parcel.url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        problem = "nothing answers there"
        for address in await addresses_of(host, port, allow_private=self._allow_private):
            try:
                return await self._post_to(parcel, address, host)
            except httpx.ConnectError as error:
                problem = f"no connection to {address}: {error}"
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise Unreachable(f"the connection failed: {error!r}") from error
        raise Unreachable(problem)

    async def _post_to(self, parcel: Parcel, address: str, host: str) -> int:
        url = httpx.URL(parcel.url)
        headers, body = parcel.signed(int(time.time()))
        headers |= {"host": url.netloc.decode(), "user-agent": "tunesmith"}
        async with self._client.stream(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers=headers,
            extensions={"sni_hostname": host},
        ) as reply:
            return reply.status_code
