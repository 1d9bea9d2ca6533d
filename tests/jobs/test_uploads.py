"""Uploads and expiring files under many hands, on both databases: one file, one end."""

import threading
import time

from jobs.artifacts.base import Stored
from jobs.database import now
from jobs.doorbell import Bell
from jobs.errors import Conflict, InvalidRequest, TooLarge
from jobs.models import File, Upload, UploadPart, new_id
from jobs.requests import UploadRequest
from jobs.rescue import Rescue
from jobs.service import uploads
from jobs.service.files import StoredFile, artifact_key
from jobs.states import UploadStatus
from tests.jobs.test_concurrency import at_once
from tests.jobs.world import World

_BYTES = 10


def _begin(world: World) -> Upload:
    request = UploadRequest(
        bytes=_BYTES, filename="a.bin", mime_type="text/plain", purpose="user_data"
    )
    with world.db.writing() as session:
        return uploads.create(session, world.me, request, world.settings)


def _add(world: World, upload: Upload) -> UploadPart | None:
    part_id = new_id("part_")
    stored = Stored(uploads.part_key(upload.id, part_id), _BYTES, "5eed")
    try:
        with world.db.writing() as session:
            return uploads.add_part(session, world.me, upload.id, part_id, stored)
    except TooLarge:
        return None


def _complete(world: World, upload: Upload, part: UploadPart) -> str | None:
    file_id = new_id("file-")
    file = StoredFile(file_id, "a.bin", "user_data", _BYTES, "5eed", artifact_key(file_id))
    with world.db.writing() as session:
        return uploads.complete(session, world.me, upload.id, [part.id], file).file_id


def _upload(world: World, upload_id: str) -> Upload:
    with world.db.reading() as session:
        return session.get_one(Upload, upload_id)


def test_no_more_parts_than_their_limit(world: World) -> None:
    upload = _begin(world)
    added = at_once(lambda _: _add(world, upload), range(8))
    assert sum(part is not None for part in added) == 3
    assert len(world.all(UploadPart)) == 3


def test_the_first_to_complete_makes_the_file(world: World) -> None:
    upload = _begin(world)
    part = _add(world, upload)
    assert part is not None
    told = set(at_once(lambda _: _complete(world, upload, part), range(6)))
    assert [file.id for file in world.all(File)] == list(told)
    assert _upload(world, upload.id).status == UploadStatus.COMPLETED


def test_complete_against_cancel(world: World) -> None:
    for _ in range(8):
        upload = _begin(world)
        part = _add(world, upload)
        assert part is not None

        def act(
            number: int, upload: Upload = upload, part: UploadPart = part
        ) -> UploadStatus | None:
            try:
                if number:
                    return UploadStatus.COMPLETED if _complete(world, upload, part) else None
                with world.db.writing() as session:
                    return uploads.cancel(session, world.me, upload.id).status
            except Conflict:
                return None

        ends = {end for end in at_once(act, range(3)) if end is not None}
        assert ends == {_upload(world, upload.id).status}
        assert len(world.all(File)) == sum(
            each.status == UploadStatus.COMPLETED for each in world.all(Upload)
        )


def test_a_file_that_expires_under_a_submission(world: World) -> None:
    """A job that was taken has its bytes, however close the end of its file was."""
    world.model()
    bell = Bell(world.settings)
    rescue = Rescue(world.db, world.settings, bell, world.store)
    outcomes = set()
    for _ in range(8):
        file = world.file()
        with world.db.reading() as session:
            world.change(File, file.id, expires_at=now(session) + 0.05)
        over = threading.Event()

        def submit(file: File = file, over: threading.Event = over) -> bool:
            accepted = False
            try:
                while True:
                    world.submit(training_file=file.id)
                    accepted = True
            except InvalidRequest:
                return accepted
            finally:
                over.set()

        def sweep(over: threading.Event = over) -> bool:
            while not over.is_set():
                rescue.sweep()
                time.sleep(0.002)
            return False

        accepted, _ = at_once(lambda step: step(), (submit, sweep))
        rescue.sweep()
        rescue.sweep()
        assert world.store.local_path(artifact_key(file.id)).exists() == accepted
        outcomes.add(accepted)
    bell.close()
    assert True in outcomes
