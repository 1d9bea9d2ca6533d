"""Fetching a stored file whole: it goes on where it broke off, and its hash is checked.

The part that has come lies beside the target under a name that holds the file's hash, so that a
part of another file is never continued.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _writing(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise CliError(f"{folder} is there and not empty: remove it, or choose another -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()  # "." has no name
        remote = _look(client, path, params)
        archive = _bring(client, remote, folder)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            unpacked = Path(temporary) / folder.name
            _unpack(archive, unpacked)
            _appear(unpacked, folder)
        archive.unlink()
        return remote


def download_file(client: Client, path: str, params: dict[str, str], target: Path) -> Remote:
    """Fetch the file at `path` as `target`, and check it.

    Raises:
        CliError: `target` is there, the server refused, or the hash is another.
    """
    with _writing(target):
        if target.exists():
            raise CliError(f"{target} is there: remove it, or choose another -o")
        target.parent.mkdir(parents=True, exist_ok=True)
        return fetch(client, path, params, target)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Whatever keeps `target` from being written is one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CliError(f"cannot write {target}: {reason}; choose another -o") from None


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with ZipFile(archive) as members:
            members.extractall(folder)
    except BadZipFile as error:
        raise CliError(f"{archive} is not an archive: {error}") from None


def _appear(unpacked: Path, folder: Path) -> None:
    """An empty folder is filled, not replaced: a shell may stand in it."""
    if not folder.exists():
        unpacked.replace(folder)
        return
    for member in unpacked.iterdir():
        shutil.move(member, folder)


def fetch(client: Client, path: str, params: dict[str, str], target: Path) -> Remote:
    """Bring the file at `path` to `target`, going on with a part that is there."""
    remote = _look(client, path, params)
    _bring(client, remote, target).replace(target)
    return remote


def _bring(client: Client, remote: Remote, target: Path) -> Path:
    """The whole file, checked, under the name of its part beside `target`."""
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
    return part


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
