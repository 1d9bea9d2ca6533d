"""Downloads of stored files: ranges, conditions and checksums, from any store that can seek.

The ETag is the file's sha256, so a client can resume a transfer and prove what it has.
"""

import re
from collections.abc import AsyncIterator
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import RangeNotSatisfiable

_CHUNK_BYTES = 1 << 20
"""Each costs a hop to a thread and back: at a quarter of this a download takes twice the CPU."""


class Download(StreamingResponse):
    """A file, whole or one range of it.

    Args:
        request: Its method, `Range`, `If-Range` and `If-None-Match` decide what is sent.
        file: Open at its start; closed when the reply has ended.
        num_bytes: The file's size.
        sha256: Of the whole file, in hex.
        filename: Under which a browser keeps it.

    Raises:
        RangeNotSatisfiable: The range lies outside of the file.
    """

    def __init__(
        self, request: Request, file: BinaryIO, *, num_bytes: int, sha256: str, filename: str
    ) -> None:
        self._file = file
        etag = f'"{sha256}"'
        headers = {
            "etag": etag,
            "x-checksum-sha256": sha256,
            "accept-ranges": "bytes",
            "cache-control": "private, no-cache",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        }
        status, start, end = 200, 0, num_bytes
        if etag in _tags(request.headers.get("if-none-match")):
            status, end = 304, 0
        elif (asked := _asked_range(request, etag)) is not None:
            try:
                start, end = _resolve(asked, num_bytes)
            except RangeNotSatisfiable:
                file.close()
                raise
            status = 206
            headers["content-range"] = f"bytes {start}-{end - 1}/{num_bytes}"
        if status != 304:
            headers["content-length"] = str(end - start)
        if request.method == "HEAD":
            end = start
        super().__init__(
            _pieces(file, start, end),
            status_code=status,
            headers=headers,
            media_type=_media_type(filename),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


async def _pieces(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    file.seek(start)
    while start < end:
        piece = await run_in_threadpool(file.read, min(_CHUNK_BYTES, end - start))
        if not piece:
            raise OSError("a stored file is shorter than its record says")
        start += len(piece)
        yield piece


def _tags(header: str | None) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in (header or "").split(",")}


def _asked_range(request: Request, etag: str) -> tuple[int | None, int | None] | None:
    """First and last byte asked for; None for the whole file.

    Several ranges, or what is no range of bytes, may be answered with the whole file, and are.
    """
    condition = request.headers.get("if-range")
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    if found is None or (condition is not None and condition != etag):
        return None
    first, last = (int(digits) if digits else None for digits in found.groups())
    if (first is None and last is None) or (None not in {first, last} and first > last):  # type: ignore[operator]
        return None
    return first, last


def _resolve(asked: tuple[int | None, int | None], num_bytes: int) -> tuple[int, int]:
    """The range as start and end (exclusive), cut to the file."""
    first, last = asked
    if first is None:
        assert last is not None
        start, end = max(0, num_bytes - last), num_bytes
    else:
        start, end = first, num_bytes if last is None else min(last + 1, num_bytes)
    if start >= end:
        raise RangeNotSatisfiable(num_bytes)
    return start, end


def _media_type(filename: str) -> str:
    known = {".zip": "application/zip", ".json": "application/json"}
    return known.get(filename[filename.rfind(".") :], "application/octet-stream")
