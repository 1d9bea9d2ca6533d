"""`export` and `exports` against a real API; a thread of the test makes what is asked for."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.service.endings import Ending
from jobs.service.export_runs import Made
from jobs.states import RunOutcome
from tests.cli.conftest import Deployment, Tunesmith
from tests.jobs.exporting import FILE, PUSHED, Desk
from tests.jobs.world import FAILURE, World, offer


@pytest.fixture
def desk(served: Deployment) -> Desk:
    """A job that has succeeded, with a checkpoint at step 3."""
    made = Desk(served.world, succeeded=False)
    served.world.note_checkpoint(made.training, step=3)
    made.succeed()
    return made


@contextmanager
def working(world: World, ending: str, content: bytes = FILE) -> Iterator[None]:
    """Makes the next export, as a worker would: into a file of this name, or it fails."""
    over = threading.Event()

    def work() -> None:
        while (claimed := world.claim(offer("maker", provides="hub"))) is None:
            if over.wait(0.05):
                return
        if ending == "failed":
            world.finish(claimed, Ending(RunOutcome.FAILED, FAILURE))
            return
        key = f"exports/{claimed.export_id}/attempt-1/{ending}"
        with world.store.create(key) as writer:
            writer.write(content)
            stored = writer.commit()
        made = Made(stored.key, ending, stored.bytes, stored.sha256)
        made = Made(pushed=PUSHED) if ending == "pushed" else made
        world.finish(claimed, Ending(RunOutcome.SUCCEEDED, made=made))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def archive() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as members:
        members.writestr(zipfile.ZipInfo("config.json"), "{}")
    return target.getvalue()


def test_asked_for_and_listed(tunesmith: Tunesmith, desk: Desk) -> None:
    asked = ("export", desk.job.id[:14], "--kind", "gguf", "--set", "outtype=q8_0")
    done = tunesmith(*asked, "--checkpoint", "3")
    assert done.code == 0, done.err
    export_id = done.out.strip()
    assert f"tunesmith exports {desk.job.id}" in done.err
    (shown,) = json.loads(tunesmith("exports", desk.job.id, "-o", "json").out)
    assert shown["id"] == export_id
    assert (shown["step_number"], shown["options"]) == (3, {"outtype": "q8_0"})
    header, row = tunesmith("exports", desk.job.id).out.splitlines()
    assert header.split() == ["ID", "KIND", "STEP", "STATUS", "SIZE", "CREATED", "WHERE"]
    assert row.split()[:4] == [export_id, "gguf", "3", "queued"]
    desk.do("cancel", desk.ask("gguf", outtype="q8_0", checkpoint=shown["checkpoint"]))


def test_a_file_is_fetched(tunesmith: Tunesmith, desk: Desk, tmp_path: Path) -> None:
    target = tmp_path / "new" / "tickets.gguf"
    with working(desk.world, "x.gguf"):
        done = tunesmith("export", desk.job.id, "--kind", "gguf", "-o", str(target))
    assert (done.code, done.out.strip()) == (0, str(target)), done.err
    assert target.read_bytes() == FILE
    assert hashlib.sha256(FILE).hexdigest() in done.err


def test_a_file_goes_into_a_folder_under_its_own_name(
    tunesmith: Tunesmith, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    asked = ("export", desk.job.id, "--kind", "gguf", "-o", "models")
    with working(desk.world, "x.gguf"):
        done = tunesmith(*asked)
    assert (done.code, done.out) == (0, "models/x.gguf\n"), done.err
    assert (tmp_path / "models" / "x.gguf").read_bytes() == FILE


def test_a_file_that_is_there_is_kept(tunesmith: Tunesmith, desk: Desk, tmp_path: Path) -> None:
    mine = tmp_path / "x.gguf"
    mine.write_text("mine")
    asked = ("export", desk.job.id, "--kind", "gguf", "-o")
    with working(desk.world, "x.gguf"):
        done = tunesmith(*asked, "x.gguf")
    expected = "tunesmith: x.gguf is there: remove it, or choose another -o\n"
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(expected)
    assert tunesmith(*asked, ".").err == expected
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("target", ["afile/sub", "afile/sub/deep"])
def test_a_file_in_the_way_is_told_in_a_line(
    tunesmith: Tunesmith, desk: Desk, tmp_path: Path, target: str
) -> None:
    (tmp_path / "afile").write_text("mine")
    with working(desk.world, "x.gguf"):
        done = tunesmith("export", desk.job.id, "--kind", "gguf", "-o", target)
    assert (done.code, done.out) == (1, "")
    last_line = done.err.splitlines()[-1]
    assert last_line.startswith("tunesmith: cannot write afile")
    assert last_line.endswith("choose another -o")


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_an_archive_is_unpacked_unless_it_is_to_be_one(
    tunesmith: Tunesmith, desk: Desk, tmp_path: Path, name: str
) -> None:
    with working(desk.world, "x-merged.zip", archive()):
        done = tunesmith("export", desk.job.id, "--kind", "merged", "-o", str(tmp_path / name))
    assert done.code == 0, done.err
    if name == "model":
        assert (tmp_path / name / "config.json").read_text() == "{}"
    else:
        assert (tmp_path / name).read_bytes() == archive()


def test_a_push_is_waited_for(tunesmith: Tunesmith, desk: Desk) -> None:
    asked = ("export", desk.job.id, "--kind", "hub", "--set", "repo_id=acme/x")
    with working(desk.world, "pushed"):
        done = tunesmith(*asked, "--wait")
    assert done.code == 0, done.err
    assert PUSHED.url in done.err
    refused = tunesmith(*asked, "-o", "here")
    assert (refused.code, "kept there" in refused.err) == (1, True)


def test_what_fails_is_told_in_a_line(tunesmith: Tunesmith, desk: Desk) -> None:
    with working(desk.world, "failed"):
        done = tunesmith("export", desk.job.id, "--kind", "merged", "--wait")
    assert done.code == 1
    assert "failed: it went wrong mend it" in done.err
    wrong = tunesmith("export", desk.job.id, "--kind", "gguf", "--set", "dtype=float16")
    assert (wrong.code, 'dtype: is no option of "gguf"' in wrong.err) == (1, True)
