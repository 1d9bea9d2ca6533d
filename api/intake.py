"""A file on its way from the socket to the store, checked row by row as it passes.

Blocks of a megabyte go to a worker thread that writes, hashes and checks them, so memory stays
flat and the event loop free. Whatever ends it early leaves nothing in the store.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Self, TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import Request

from api.forms import Fields, Form, missing, too_large
from api.multipart import FormReader
from jobs.artifacts.base import ArtifactStore, ArtifactWriter, Stored
from jobs.errors import InvalidRequest, JobsError
from jobs.models import new_id
from jobs.requests import EXPIRY_SECONDS, PURPOSES
from jobs.service.files import CHECKED_PURPOSE, StoredFile, artifact_key
from jobs.settings import Settings
from training.binary_probe import HEAD_BYTES
from training.containers import container_of
from training.data_config import ContainerName
from training.file_check import FileChecker, FileReport, NotText, OverLimit

T = TypeVar("T")

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FILE_FIELDS: Fields = {"purpose": PURPOSES, _ANCHOR: ("created_at",), _SECONDS: None}
_BLOCK_BYTES = 1 << 20
_FORM_BYTES = 1 << 16
_DRAIN_SECONDS = 30
_MAX_JOINS = 2


class Intake:
    """Takes files for one process; the threads that check them are few, so that they share."""

    def __init__(self, settings: Settings, store: ArtifactStore, *, num_threads: int = 4) -> None:
        self._settings = settings
        self._store = store
        self._threads = CapacityLimiter(num_threads)
        self._joins = CapacityLimiter(_MAX_JOINS)

    async def take_file(self, request: Request) -> StoredFile:
        """Store the file of a form.

        Raises:
            InvalidRequest: The form or its file is not what is accepted here.
            TooLarge: The file is over the limit of the settings.
            UnsupportedMediaType: The body is not a form.
            starlette.requests.ClientDisconnect: The client went away.
        """
        file_id = new_id("file-")
        form = Form("file", FILE_FIELDS, self._settings.max_upload_bytes)
        rows = _Rows(form, self._settings)
        async with _body_of(request) as body:
            _refuse_declared_size(request, "file", self._settings.max_upload_bytes)
            with self._store.create(artifact_key(file_id)) as writer:
                await self._receive(request, body, form, writer, rows.check)
                finish = partial(_finish_file, file_id, form, writer, rows)
                return await to_thread.run_sync(finish, limiter=self._threads)

    async def take_part(self, request: Request, key: str, admit: Callable[[], None]) -> Stored:
        """Store the bytes of a part of an upload.

        Args:
            request: Its form holds them as the file `data`.
            key: Where they are stored.
            admit: Raises what refuses the part before it is read; for a worker thread.

        Raises:
            TooLarge: The part is over the limit of the settings.
            JobsError: As for `take_file`.
        """
        max_bytes = self._settings.max_part_bytes
        form = Form("data", {}, max_bytes)
        async with _body_of(request) as body:
            await to_thread.run_sync(admit)
            _refuse_declared_size(request, "data", max_bytes)
            with self._store.create(key) as writer:
                await self._receive(request, body, form, writer, None)
                form.require_file()
                writer.write(form.next_block())
                return await to_thread.run_sync(writer.commit, limiter=self._threads)

    async def join(self, step: Callable[[], T]) -> T:
        """Run a step that reads whole uploads: few at once, and never in the threads of others."""
        return await to_thread.run_sync(step, limiter=self._joins)

    async def _receive(
        self,
        request: Request,
        body: AsyncIterator[bytes],
        form: Form,
        writer: ArtifactWriter,
        check: Callable[[bytes], None] | None,
    ) -> None:
        """Take the form in; the last block of its file is left with it."""
        reader = FormReader(request.headers.get("content-type"))
        async with _Ahead(self._threads) as ahead:
            async for chunk in body:
                for piece in reader.feed(chunk):
                    form.take(piece)
                if form.num_pending_bytes >= _BLOCK_BYTES:
                    block = form.next_block()
                    steps = [partial(writer.write, block)]
                    steps += [partial(check, block)] if check else []
                    await ahead.do(*steps)
            await ahead.rest()
        if not reader.ended:
            raise InvalidRequest("the form ends before its last boundary", code="invalid_form")


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


class _Rows:
    """The check of a file's rows, which may begin before it is known whether it is wanted."""

    def __init__(self, form: Form, settings: Settings) -> None:
        self._form = form
        self._checker = FileChecker(
            max_line_bytes=settings.max_line_bytes, max_errors=settings.max_row_errors
        )
        self._refusal: NotText | OverLimit | None = None
        self.container: ContainerName | None = None

    def check(self, block: bytes) -> None:
        """Check the rows that end in `block`; for a worker thread.

        Of anything but JSON Lines only the beginning is looked at: a worker reads the rest.
        """
        if self.container is None:
            self.container = container_of(self._form.filename or "", block[:HEAD_BYTES])
        if self.container == "jsonl" and self._is_wanted and self._refusal is None:
            self._try(lambda: self._checker.feed(block))

    def finish(self) -> FileReport | None:
        """What was found, once the whole form is there; raises InvalidRequest."""
        if not self._is_wanted or self.container != "jsonl":
            return None
        report = self._try(self._checker.finish)
        if self._refusal is not None:
            raise _invalid_file(self._refusal)
        return report

    @property
    def _is_wanted(self) -> bool:
        """Training data is checked; so is a file whose purpose has not arrived yet."""
        return self._form.value("purpose") in {CHECKED_PURPOSE, None}

    def _try(self, step: Callable[[], T]) -> T | None:
        """A step of the check; a refusal counts at once, or when the purpose turns up."""
        try:
            return step()
        except (NotText, OverLimit) as refusal:
            self._refusal = refusal
            if self._form.value("purpose") == CHECKED_PURPOSE:
                raise _invalid_file(refusal) from refusal
            return None


def _finish_file(file_id: str, form: Form, writer: ArtifactWriter, rows: _Rows) -> StoredFile:
    """Keep the file, if the form was right; for a worker thread."""
    last = form.next_block()
    writer.write(last)
    rows.check(last)
    purpose = form.value("purpose")
    if purpose is None:
        raise missing("purpose", f"one of {', '.join(PURPOSES)}")
    filename, expires_after = form.require_file(), _expiry(form)
    report = rows.finish()
    stored = writer.commit()
    return StoredFile(
        id=file_id,
        filename=filename,
        purpose=purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        artifact_key=stored.key,
        report=report,
        container=rows.container if purpose == CHECKED_PURPOSE else None,
        expires_after_seconds=expires_after,
    )


def _expiry(form: Form) -> int | None:
    """The seconds of `expires_after`; both of its fields are sent, or none."""
    anchor, seconds = form.value(_ANCHOR), form.value(_SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor is None or seconds is None:
        field, accepted = (_SECONDS, "seconds") if seconds is None else (_ANCHOR, "created_at")
        raise missing(field, f"both {_ANCHOR} and {_SECONDS}, here {accepted}")
    least, most = EXPIRY_SECONDS
    if not (seconds.isascii() and seconds.isdigit() and least <= int(seconds[:12]) <= most):
        raise InvalidRequest(
            f"{_SECONDS}: {seconds!r} is not a whole number from {least} to {most}",
            param=_SECONDS,
            code="invalid_value",
        )
    return int(seconds)


def _invalid_file(refusal: NotText | OverLimit) -> InvalidRequest:
    return InvalidRequest(f"file: {refusal}", param="file", code="invalid_file")


def _refuse_declared_size(request: Request, field: str, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > max_bytes + _FORM_BYTES:
        raise too_large(field, max_bytes)


@asynccontextmanager
async def _body_of(request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body; after a refusal it is read on for a while.

    A client that is still sending would not see the reply otherwise.
    """
    async with aclosing(request.stream()) as body:
        try:
            yield body
        except JobsError:
            if "expect" not in request.headers:
                with move_on_after(_DRAIN_SECONDS):
                    async for _ in body:
                        pass
            raise
