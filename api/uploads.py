"""An upload on its way from the socket to the store, checked row by row as it passes.

Blocks of a megabyte go to a worker thread that writes, hashes and checks them, so memory stays
flat and the event loop free. Whatever ends an upload early leaves nothing in the store.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Self, TypeVar, get_args

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import Request

from api.multipart import Closed, FormReader, Opened, Piece
from api.schemas.files import Purpose
from jobs.artifacts.base import ArtifactStore, ArtifactWriter
from jobs.errors import InvalidRequest, JobsError, TooLarge
from jobs.models import new_id
from jobs.service.files import Upload, artifact_key
from jobs.settings import Settings
from training.formats import FileChecker, NotText, OverLimit

T = TypeVar("T")

PURPOSES: tuple[str, ...] = get_args(Purpose)
_CHECKED_PURPOSE = "fine-tune"
_BLOCK_BYTES = 1 << 20
_FORM_BYTES = 1 << 16
_MAX_FIELD_BYTES = 1024
_MAX_FILENAME_CHARS = 255
_DRAIN_SECONDS = 30


class Uploads:
    """Takes uploads for one process; the threads that check them are few, so that they share."""

    def __init__(self, settings: Settings, store: ArtifactStore, *, num_threads: int = 4) -> None:
        self._settings = settings
        self._store = store
        self._threads = CapacityLimiter(num_threads)

    async def take(self, request: Request) -> Upload:
        """Store the file of a form.

        Raises:
            InvalidRequest: The form or its file is not what is accepted here.
            TooLarge: The file is over the limit of the settings.
            UnsupportedMediaType: The body is not a form.
            starlette.requests.ClientDisconnect: The client went away.
        """
        async with aclosing(request.stream()) as body:
            try:
                return await self._take(request, body)
            except JobsError:
                if "expect" not in request.headers:
                    await _drain(body)
                raise

    async def _take(self, request: Request, body: AsyncIterator[bytes]) -> Upload:
        form = FormReader(request.headers.get("content-type"))
        _refuse_declared_size(request, self._settings.max_upload_bytes)
        file_id = new_id("file-")
        with self._store.create(artifact_key(file_id)) as writer:
            intake = _Intake(file_id, writer, self._settings)
            async with _Ahead(self._threads) as ahead:
                async for chunk in body:
                    for piece in form.feed(chunk):
                        intake.take(piece)
                    if intake.num_pending_bytes >= _BLOCK_BYTES:
                        block = intake.next_block()
                        await ahead.do(partial(writer.write, block), partial(intake.check, block))
                await ahead.rest()
            if not form.ended:
                raise InvalidRequest("the form ends before its last boundary", code="invalid_form")
            return await to_thread.run_sync(intake.finish, limiter=self._threads)


class _Ahead:
    """Works on one block in threads while the next one arrives, never on more than one.

    Leaving the context waits for the threads: nothing writes once the writer is gone.
    """

    def __init__(self, threads: CapacityLimiter) -> None:
        self._threads = threads
        self._busy: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def do(self, *steps: Callable[[], None]) -> None:
        """Begin the steps of a block beside each other; raises what the last block's raised."""
        await self.rest()
        self._busy = [
            asyncio.create_task(to_thread.run_sync(step, limiter=self._threads)) for step in steps
        ]

    async def rest(self) -> None:
        """Wait for the last block, and raise what its steps raised."""
        await asyncio.gather(*self._busy)


class _Intake:
    """What has arrived of one form, and what is known of its file."""

    def __init__(self, file_id: str, writer: ArtifactWriter, settings: Settings) -> None:
        self._file_id = file_id
        self._writer = writer
        self._max_bytes = settings.max_upload_bytes
        self._checker = FileChecker(
            max_line_bytes=settings.max_line_bytes, max_errors=settings.max_row_errors
        )
        self._refusal: NotText | OverLimit | None = None
        self._part: Opened | None = None
        self._fields: dict[str, bytes] = {}
        self._filename: str | None = None
        self._pending: list[bytes] = []
        self._num_bytes = 0
        self.num_pending_bytes = 0

    def take(self, piece: Piece) -> None:
        """Sort a piece of the form; cheap, for the event loop."""
        if isinstance(piece, Opened):
            self._open(piece)
        elif isinstance(piece, Closed):
            self._part = None
        elif self._part is not None and self._part.filename is not None:
            self._take_file_bytes(piece)
        elif self._part is not None:
            self._take_field_bytes(self._part.name, piece)

    def next_block(self) -> bytes:
        """What has arrived of the file since the last block."""
        block = b"".join(self._pending)
        self._pending, self.num_pending_bytes = [], 0
        return block

    def check(self, block: bytes) -> None:
        """Check the rows that end in `block`; for a worker thread."""
        if self._is_checked and self._refusal is None:
            self._check(lambda: self._checker.feed(block))

    def finish(self) -> Upload:
        """Keep the file, if the form was right; for a worker thread."""
        last = self.next_block()
        self._writer.write(last)
        self.check(last)
        purpose = self._purpose
        if purpose is None:
            raise _missing("purpose", f"one of {', '.join(PURPOSES)}")
        if self._filename is None:
            raise _missing("file", "the file itself, as a part with a filename")
        report = self._check(self._checker.finish) if self._is_checked else None
        if self._refusal is not None:
            raise InvalidRequest(f"file: {self._refusal}", param="file", code="invalid_file")
        stored = self._writer.commit()
        return Upload(
            id=self._file_id,
            filename=self._filename,
            purpose=purpose,
            bytes=stored.bytes,
            sha256=stored.sha256,
            artifact_key=stored.key,
            report=report,
        )

    @property
    def _purpose(self) -> str | None:
        raw = self._fields.get("purpose")
        return None if raw is None else raw.decode("utf-8", "replace")

    @property
    def _is_checked(self) -> bool:
        """Training data is; so is a file whose purpose has not arrived yet."""
        return self._purpose in {_CHECKED_PURPOSE, None}

    def _check(self, step: Callable[[], T]) -> T | None:
        """A step of the check; a refusal counts at once, or when the purpose turns up."""
        try:
            return step()
        except (NotText, OverLimit) as refusal:
            self._refusal = refusal
            if self._purpose is not None:
                raise InvalidRequest(
                    f"file: {refusal}", param="file", code="invalid_file"
                ) from refusal
            return None

    def _open(self, part: Opened) -> None:
        self._part = part
        if part.filename is None:
            _refuse_unknown_field(part.name)
            if part.name in self._fields:
                raise InvalidRequest(f"{part.name} is given twice; give it once", param=part.name)
            self._fields[part.name] = b""
        elif part.name != "file" or self._filename is not None:
            raise InvalidRequest(
                f"{part.name!r}: one file is taken, in the part named 'file'", param=part.name
            )
        else:
            self._filename = _plain_filename(part.filename)

    def _take_file_bytes(self, data: bytes) -> None:
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._pending.append(data)
        self.num_pending_bytes += len(data)

    def _take_field_bytes(self, name: str, data: bytes) -> None:
        value = self._fields[name] + data
        if len(value) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"{name} is longer than {_MAX_FIELD_BYTES} bytes", param=name)
        self._fields[name] = value
        partial = any(purpose.encode().startswith(value) for purpose in PURPOSES)
        if name == "purpose" and not partial:
            raise InvalidRequest(
                f"purpose: {value.decode('utf-8', 'replace')!r} is not one of "
                f"{', '.join(PURPOSES)}",
                param="purpose",
                code="invalid_value",
            )


def _refuse_unknown_field(name: str) -> None:
    if name == "file":
        raise InvalidRequest(
            "file: send it as a file with a name, as `curl -F file=@data.jsonl` does", param="file"
        )
    if name.startswith("expires_after"):
        raise InvalidRequest(
            "expires_after: files do not expire here; leave it out, and delete what is not needed",
            param="expires_after",
            code="unsupported",
        )
    if name != "purpose":
        raise InvalidRequest(
            f"{name!r}: unknown field; the accepted ones are file, purpose",
            param=name or None,
            code="unknown_key",
        )


def _plain_filename(given: str) -> str:
    name = given.replace("\\", "/").rpartition("/")[2].strip()
    if not name or len(name) > _MAX_FILENAME_CHARS or not name.isprintable():
        raise InvalidRequest(
            f"file: a filename has 1 to {_MAX_FILENAME_CHARS} printable characters",
            param="file",
            code="invalid_filename",
        )
    return name


def _missing(field: str, accepted: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field} is required: send {accepted}", param=field, code="missing_field"
    )


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"file: it is over {max_bytes} bytes, the most that is accepted", param="file")


def _refuse_declared_size(request: Request, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > max_bytes + _FORM_BYTES:
        raise _too_large(max_bytes)


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read on for a while: a client that is still sending would not see the reply otherwise."""
    with move_on_after(_DRAIN_SECONDS):
        async for _ in body:
            pass
