"""`download`: which names it writes to, what it refuses, and how it says to use what has come."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from jobs.models import Job
from jobs.service.endings import Ending, StoredArtifact
from jobs.states import RunOutcome
from tests.cli.conftest import Deployment, Tunesmith
from tests.jobs.world import World, offer

ADAPTER = {"adapter_config.json": "{}", "adapter_model.safetensors": "weights"}


def trained(world: World, files: dict[str, str], suffix: str = "t") -> tuple[Job, bytes]:
    """A job that has succeeded with these files, and the archive of them."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as members:
        for name, text in files.items():
            members.writestr(name, text)
    job = world.submit(training_file=world.file().id, suffix=suffix)
    claimed = world.claim(offer())
    assert claimed is not None
    with world.store.create(f"jobs/{job.id}/adapter.zip") as writer:
        writer.write(target.getvalue())
        stored = writer.commit()
    artifact = StoredArtifact("adapter.zip", stored.key, stored.bytes, stored.sha256)
    world.finish(claimed, Ending(RunOutcome.SUCCEEDED, artifacts=(artifact,)))
    return job, target.getvalue()


@pytest.fixture(scope="module")
def result(served: Deployment) -> tuple[Job, bytes]:
    return trained(served.world, ADAPTER)


@pytest.fixture
def job(result: tuple[Job, bytes]) -> Job:
    return result[0]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_beside_the_folder_is_touched(
    tunesmith: Tunesmith, job: Job, tmp_path: Path
) -> None:
    mine = tmp_path / "t-adapter.zip"
    mine.write_text("mine")
    done = tunesmith("download", job.id)
    assert (done.code, done.out) == (0, "t-adapter\n"), done.err
    assert mine.read_text() == "mine"
    assert names(tmp_path) == {"t-adapter", "t-adapter.zip"}
    assert names(tmp_path / "t-adapter") == set(ADAPTER)


def test_an_archive_goes_on_where_it_broke_off(
    tunesmith: Tunesmith, result: tuple[Job, bytes], tmp_path: Path
) -> None:
    job, archive = result
    digest = hashlib.sha256(archive).hexdigest()
    part = tmp_path / f".model.{digest[:12]}.part"
    part.write_bytes(b"\0" + archive[1:100])
    done = tunesmith("download", job.id, "-o", "model")
    assert (done.code, "the bad copy is deleted, try again" in done.err) == (1, True)
    part.write_bytes(archive[:100])
    assert tunesmith("download", job.id, "-o", "model").code == 0
    assert names(tmp_path) == {"model"}


def test_an_empty_current_folder_is_filled(
    tunesmith: Tunesmith, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    done = tunesmith("download", job.id, "-o", ".")
    assert (done.code, done.out) == (0, ".\n"), done.err
    assert names(Path()) == set(ADAPTER), "a shell that stands in it sees what has come"
    assert names(tmp_path) == {"here"}
    again = tunesmith("download", job.id, "-o", ".")
    assert again.code == 1
    assert again.err == "tunesmith: . is there and not empty: remove it, or choose another -o\n"


@pytest.mark.parametrize("target", ["afile", "afile/sub", "afile/sub/deep"])
def test_a_file_in_the_way_is_told_in_a_line(
    tunesmith: Tunesmith, job: Job, tmp_path: Path, target: str
) -> None:
    (tmp_path / "afile").write_text("mine")
    done = tunesmith("download", job.id, "-o", target)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.endswith("choose another -o\n")
    assert (tmp_path / "afile").read_text() == "mine"


LONG = "m" * 240
"""A name that is taken; with that of a part around it, it is not."""


def test_what_cannot_be_written_is_told_in_a_line(
    tunesmith: Tunesmith, job: Job, tmp_path: Path
) -> None:
    done = tunesmith("download", job.id, "-o", LONG)
    words = f"tunesmith: cannot write {LONG}: File name too long; choose another -o\n"
    assert (done.code, done.out, done.err) == (1, "", words)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("files", "use"),
    [
        (ADAPTER, "PeftModel.from_pretrained(base_model, "),
        ({"config.json": "{}"}, "AutoModelForCausalLM.from_pretrained("),
        (
            {"config.json": json.dumps({"is_encoder_decoder": True})},
            "AutoModelForSeq2SeqLM.from_pretrained(",
        ),
    ],
)
def test_the_hint_loads_what_has_come(
    served: Deployment, tunesmith: Tunesmith, files: dict[str, str], use: str
) -> None:
    job, _ = trained(served.world, files)
    done = tunesmith("download", job.id, "-o", "model")
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == f'  {use}"model")'
