"""The HTTP API as the commands use it: JSON in and out, pages, and errors in one sentence."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from cli.connection import Connection, find_connection
from cli.errors import CliError, ServerAwayError

Json = dict[str, Any]

_MAX_PAGE = 100
_TIMEOUT = httpx.Timeout(60, connect=5)
_STREAM_TIMEOUT = httpx.Timeout(60, connect=5)
_UPLOAD_TIMEOUT = httpx.Timeout(600, connect=5)


class Client:
    """One connection pool to one server; close it, or use it as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._http = httpx.Client(
            base_url=f"{connection.url}/v1",
            headers={"Authorization": f"Bearer {connection.api_key}"},
            timeout=_TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Json:  # noqa: ANN401 - query values of any kind
        return self._send("GET", path, params=_given(params))

    def post(self, path: str, body: Json | None = None) -> Json:
        return self._send("POST", path, json=body or {})

    def delete(self, path: str) -> Json:
        return self._send("DELETE", path)

    def pages(self, path: str, **params: Any) -> Iterator[Json]:  # noqa: ANN401
        """Every item of a list, page by page."""
        after = None
        while True:
            page = self.get(path, after=after, **params)
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def newest(self, path: str, count: int) -> Iterator[Json]:
        """The first items of a list that begins with the newest."""
        return islice(self.pages(path, limit=min(count, _MAX_PAGE)), count)

    def upload(self, path: Path, purpose: str, on_bytes: Callable[[int], None]) -> Json:
        """Send a file; `on_bytes` hears of every chunk's size as it is read."""
        try:
            file = _CountedFile(path, on_bytes)
        except OSError as error:
            raise CliError(f"cannot read {path}: {error.strerror}") from None
        with file:
            return self._send(
                "POST",
                "/files",
                data={"purpose": purpose},
                files={"file": (path.name, io.BufferedReader(file), "application/jsonl")},
                timeout=_UPLOAD_TIMEOUT,
            )

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        params: Json | None = None,
    ) -> Iterator[httpx.Response]:
        """A reply that is read piece by piece; a refusal is raised before the first."""
        with (
            self._plain_errors(),
            self._http.stream(
                "GET", path, headers=headers, params=params, timeout=_STREAM_TIMEOUT
            ) as response,
        ):
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield response

    def _send(self, method: str, path: str, **options: Any) -> Json:  # noqa: ANN401
        with self._plain_errors():
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise _refusal(response)
        try:
            return response.json()  # type: ignore[no-any-return]
        except ValueError:
            raise CliError(f"{self.url} does not answer like a Tunesmith server") from None

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise ServerAwayError(
                f"no server answers at {self.url}: is `tunesmith serve` running there?"
            ) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise CliError(f"TUNESMITH_URL {self.url!r} is not an address: {error}") from None
        except httpx.TransportError as error:
            words = str(error) or type(error).__name__
            raise ServerAwayError(f"the connection to {self.url} broke: {words}") from None


def connect() -> Client:
    """A client of the server that the environment or the data folder names.

    Raises:
        CliError: Neither names one.
    """
    return Client(find_connection())


def job_path(job_id: str, rest: str = "") -> str:
    return f"/fine_tuning/jobs/{quote(job_id, safe='')}{rest}"


def model_path(name: str) -> str:
    return f"/models/{quote(name, safe='')}"


class _CountedFile(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - any writable buffer
        count = super().readinto(buffer)
        self._on_bytes(count or 0)
        return count


def _given(params: Json) -> Json:
    return {key: value for key, value in params.items() if value is not None}


def _refusal(response: httpx.Response) -> CliError:
    """The sentence of the server's error object."""
    kind = ServerAwayError if response.status_code in {502, 503, 504} else CliError
    try:
        error = response.json()["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        return kind(f"{response.url.host} answered {response.status_code} to {response.url.path}")
    return kind(f"{param}: {message}" if param and param not in message else message)
