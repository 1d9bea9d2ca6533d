"""Files between a run directory and the store."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from jobs.artifacts.local import LocalStore
from jobs.service.claims import StoredCheckpoint
from training.ledger import Ledger
from training.run_directory import RunDirectory, complete_folder, read_manifest, verify
from worker.checkpoints import restore_newest
from worker.results import upload_result, write_archive
from worker.step_metrics import write_table
from worker.transfers import Mismatch, download, upload, upload_expected


def go_on() -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.path.mkdir()
    return made


def stored_checkpoint(
    store: LocalStore, folder: Path, step: int, best_step: int | None = None
) -> StoredCheckpoint:
    with complete_folder(folder, step=step) as temporary:
        if best_step is not None:
            Ledger(best_valid_loss=1.0, best_step=best_step).write(temporary)
        (temporary / "nested").mkdir()
        (temporary / "nested" / "state.bin").write_bytes(b"%d" % step * 1000)
        (temporary / "weights.bin").write_bytes(b"w" * 1000)
    manifest = read_manifest(folder)
    prefix = f"jobs/j/attempt-1/checkpoint-{step}"
    for entry in manifest.files:
        upload(store, folder / entry.path, f"{prefix}/{entry.path}", go_on)
    return StoredCheckpoint(f"ftckpt_{step}", step, 1, prefix, manifest)


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "b").write_bytes(b"b" * 3_000_000)
        (folder / "a").write_text("a")
        target = tmp_path / f"{name}.zip"
        write_archive(folder, target)
        digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
    assert len(digests) == 1
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["a", "sub/b"]
        assert archive.testzip() is None
        assert all(not info.flag_bits & 0x08 for info in archive.infolist())


def test_a_result_is_stored_file_by_file_and_whole(
    store: LocalStore, directory: RunDirectory
) -> None:
    with complete_folder(directory.result) as temporary:
        (temporary / "adapter_model.safetensors").write_bytes(b"weights")
    artifacts = {a.name: a for a in upload_result(store, directory, "jobs/j/attempt-2", go_on)}
    assert sorted(artifacts) == [
        "adapter.zip", "adapter/adapter_model.safetensors", "adapter/manifest.json",
    ]  # fmt: skip
    for artifact in artifacts.values():
        assert artifact.key == f"jobs/j/attempt-2/{artifact.name}"
        with store.open(artifact.key) as file:
            assert hashlib.sha256(file.read()).hexdigest() == artifact.sha256
    assert not (directory.path / "adapter.zip").exists()


def test_what_differs_from_its_manifest_is_not_kept(store: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"changed")
    with pytest.raises(Mismatch):
        upload_expected(store, source, "jobs/j/file", "0" * 64, go_on)
    with pytest.raises(FileNotFoundError):
        store.open("jobs/j/file")


def test_a_download_that_differs_from_its_pin_is_not_kept(
    store: LocalStore, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    stored = upload(store, source, "files/f", go_on)
    download(store, "files/f", tmp_path / "sub" / "copy", stored.sha256, go_on)
    assert (tmp_path / "sub" / "copy").read_bytes() == b"content"
    with pytest.raises(Mismatch):
        download(store, "files/f", tmp_path / "other", "0" * 64, go_on)
    assert not (tmp_path / "other").exists()


def test_a_transfer_that_is_broken_off_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    source = tmp_path / "file"
    source.write_bytes(b"x" * 3_000_000)
    with pytest.raises(InterruptedError):
        upload(store, source, "files/f", stop)
    assert list(store.keys("files/")) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_checkpoint_is_passed_over(
    store: LocalStore, directory: RunDirectory, tmp_path: Path, damage: str
) -> None:
    older = stored_checkpoint(store, tmp_path / "a" / "checkpoint-5", 5)
    newer = stored_checkpoint(store, tmp_path / "a" / "checkpoint-10", 10)
    victim = store.local_path(f"{newer.key_prefix}/nested/state.bin")
    assert victim is not None
    content = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        broken = {
            "flip": content[:500] + b"!" + content[501:],
            "truncate": content[:-1],
            "empty": b"",
        }
        victim.write_bytes(broken[damage])
    assert restore_newest(store, (newer, older), directory, go_on) == 5
    assert [p.name for p in directory.checkpoints.iterdir()] == ["checkpoint-5"]
    assert verify(directory.checkpoint(5))


def test_the_newest_whole_checkpoint_is_restored_as_it_was(
    store: LocalStore, directory: RunDirectory, tmp_path: Path
) -> None:
    older = stored_checkpoint(store, tmp_path / "a" / "checkpoint-5", 5)
    newer = stored_checkpoint(store, tmp_path / "a" / "checkpoint-10", 10)
    assert restore_newest(store, (newer, older), directory, go_on) == 10
    assert directory.newest_valid_checkpoint() == directory.checkpoint(10)
    assert read_manifest(directory.checkpoint(10)) == newer.manifest
    assert restore_newest(store, (), directory, go_on) is None


@pytest.mark.parametrize(("best_step", "restored"), [(5, [5, 15]), (15, [15]), (3, [15])])
def test_the_best_checkpoint_is_restored_beside_the_newest(
    store: LocalStore,
    directory: RunDirectory,
    tmp_path: Path,
    best_step: int,
    restored: list[int],
) -> None:
    """One that is not stored any more is the training's to tell of."""
    checkpoints = tuple(
        stored_checkpoint(store, tmp_path / "a" / f"checkpoint-{step}", step, best_step)
        for step in (15, 10, 5)
    )
    assert restore_newest(store, checkpoints, directory, go_on) == 15
    assert sorted(int(p.name[11:]) for p in directory.checkpoints.iterdir()) == restored
    assert all(verify(folder) for folder in directory.checkpoints.iterdir())


def test_the_table_has_a_row_per_measured_step_and_empty_cells(tmp_path: Path) -> None:
    measured = [
        (1, {"train_loss": 2.5, "train_mean_token_accuracy": 0.1, "learning_rate": 1e-4}),
        (2, {"learning_rate": 1e-4}),
        (3, {"train_loss": 1.0 / 3, "valid_loss": None}),
        (3, {"valid_loss": 9.0, "valid_mean_token_accuracy": 0.25, "full_valid_loss": 9.0}),
        (3, {"valid_loss": 0.5}),
        (3, {"valid_loss": None}),
        (4, {"train_loss": None}),
    ]
    target = tmp_path / "table.csv"
    write_table(measured, target)
    assert target.read_bytes() == (
        b"step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy\n"
        b"1,2.5,0.1,,\n"
        b"3,0.3333333333333333,,0.5,0.25\n"
    )


def test_a_table_of_nothing_is_a_header(tmp_path: Path) -> None:
    write_table([], tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().count("\n") == 1
