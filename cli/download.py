"""Fetching a stored file whole: it goes on where it broke off, and its hash is checked.

The part that has come lies beside the target under a name that holds the file's hash, so that a
part of another file is never continued.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import httpx

from cli.client import Client
from cli.errors import CliError, ServerAwayError
from cli.progress import transfer

_ATTEMPTS = 6
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A file on the server: where it is, and what its bytes must be."""

    path: str
    params: dict[str, str]
    bytes: int
    sha256: str
    etag: str


def download_folder(client: Client, path: str, params: dict[str, str], folder: Path) -> Remote:
    """Fetch the archive at `path`, check it, and unpack it as `folder`, all of it or nothing.

    Raises:
        CliError: `folder` holds something, the server refused, or the hash is another.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CliError(f"{folder} is there and not empty: remove it, or choose another -o")
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_name(f"{folder.name}.zip")
    remote = fetch(client, path, params, archive)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unpacked = Path(temporary) / folder.name
        _unpack(archive, unpacked)
        unpacked.replace(folder)
    archive.unlink()
    return remote


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with ZipFile(archive) as members:
            members.extractall(folder)
    except BadZipFile as error:
        raise CliError(f"{archive} is not an archive: {error}") from None


def fetch(client: Client, path: str, params: dict[str, str], target: Path) -> Remote:
    """Bring the file at `path` to `target`, going on with a part that is there."""
    remote = _look(client, path, params)
    part = target.with_name(f".{target.name}.{remote.sha256[:12]}.part")
    for attempt in range(_ATTEMPTS):
        try:
            _receive(client, remote, part, target.name)
            break
        except ServerAwayError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(min(8.0, 0.5 * 2**attempt))
    _verify(part, remote)
    part.replace(target)
    return remote


def _look(client: Client, path: str, params: dict[str, str]) -> Remote:
    with client.stream(path, params=params, headers={"Range": "bytes=0-0"}) as response:
        total = response.headers.get("content-range", "/").rpartition("/")[2]
        digest = response.headers.get("x-checksum-sha256")
        if not digest or not total.isdigit():
            raise CliError(f"{path}: the server names no size and sha256 to check against")
        return Remote(path, params, int(total), digest, response.headers.get("etag", ""))


def _receive(client: Client, remote: Remote, part: Path, name: str) -> None:
    done = part.stat().st_size if part.exists() else 0
    if done >= remote.bytes:
        return
    headers = {"Range": f"bytes={done}-", "If-Range": remote.etag}
    with (
        client.stream(remote.path, params=remote.params, headers=headers) as response,
        part.open("wb" if response.status_code == httpx.codes.OK else "ab") as file,
        transfer(name, remote.bytes, done) as bar,
    ):
        for chunk in response.iter_bytes(_CHUNK_BYTES):
            file.write(chunk)
            bar.add(len(chunk))


def _verify(part: Path, remote: Remote) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != remote.sha256:
        part.unlink()
        raise CliError(
            f"{remote.path} came with sha256 {digest} instead of {remote.sha256}; "
            "the bad copy is deleted, try again"
        )
