"""Which server a command talks to, and with which key.

The environment decides; without it, what `tunesmith serve` left in the local data folder. The
local admin key is never sent to another machine.
"""

import json
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from cli.errors import CliError

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Connection:
    """A server's address, without a final slash, and the bearer key for it."""

    url: str
    api_key: str


def find_connection() -> Connection:
    """Read `TUNESMITH_URL` and `TUNESMITH_API_KEY`, else the data folder's files.

    Raises:
        CliError: Neither says where the server is, or which key to use.
    """
    url = (os.environ.get("TUNESMITH_URL") or _local_url()).rstrip("/")
    url = url.removesuffix("/v1")  # as OpenAI's clients are given it
    key = os.environ.get("TUNESMITH_API_KEY") or _local_key(url)
    return Connection(url, key)


def _local_url() -> str:
    from jobs.settings import read_settings  # noqa: PLC0415 - not needed when the environment decides

    path = read_settings().server_file
    try:
        return str(json.loads(path.read_text())["url"])
    except FileNotFoundError:
        raise CliError(
            f"no server runs on {path.parent}: start one with `tunesmith serve`, "
            "or set TUNESMITH_URL (or TUNESMITH_DATA_DIR)"
        ) from None


def _local_key(url: str) -> str:
    from jobs.settings import read_settings  # noqa: PLC0415 - as above

    if urlsplit(url).hostname not in _LOOPBACK:
        raise CliError(f"set TUNESMITH_API_KEY to a key of {url}")
    path = read_settings().admin_key_file
    try:
        return path.read_text().strip()
    except (FileNotFoundError, PermissionError):
        raise CliError(f"set TUNESMITH_API_KEY: there is no key to read in {path}") from None
