"""The files of a run directory, and how they are written so that a crash leaves old or new.

run.json          RunSpec: what to do
export.json       ExportSpec: what to make of a trained model, in a directory of its own
pushed.json       where an export was pushed to
stop.json         why the process is being stopped, written before its TERM; `stop` needs none
events.jsonl      what happened (training.events)
output.log        standard output and error of the process
data/             staged inputs, where the worker copies them
base/             a whole model that was tuned before, in place of the base model
documents/        the data as tokens, unless the host shares that between runs
start/            an adapter that training goes on from
checkpoints/      checkpoint-<step>/, each with a manifest.json
held/             the checkpoint that the worker is storing, whatever becomes of it above
result/           the adapter (or the model), with a manifest.json
tensorboard/      tracker files
ranks/            how it ended for each process, where several train together
wandb/            a run of Weights & Biases that could not be sent while it was made
mlflow/           a run of MLflow that has no server
.reserve          space for the last words on a full disk
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.export_spec import ExportSpec
from training.run_spec import RunSpec
from training.section import STORED

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20
_RESERVE_BYTES = 64 << 10

StopReason = Literal["cancel", "pause", "drain", "lost", "stop"]
"""`cancel` ends without a checkpoint; `pause` and `drain` save one; `lost`: the fence said no.

`stop` ends with a result, of what is trained so far. It is a wish and no signal: training looks for
it between steps, so that it reaches a process that is not listening yet, and can be taken back.
"""


class FileEntry(BaseModel):
    """One file of a folder: its path below it (with `/`), size and content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Everything a folder holds but the manifest itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    files: tuple[FileEntry, ...]
    step: int | None = None
    attempt: int | None = None

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


@dataclass(frozen=True)
class RunDirectory:
    """A run directory by its path; names are spelled here and nowhere else."""

    path: Path

    @property
    def spec_file(self) -> Path:
        return self.path / "run.json"

    @property
    def export_file(self) -> Path:
        return self.path / "export.json"

    @property
    def pushed_file(self) -> Path:
        return self.path / "pushed.json"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "output.log"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def base(self) -> Path:
        return self.path / "base"

    @property
    def documents(self) -> Path:
        return self.path / "documents"

    @property
    def start(self) -> Path:
        return self.path / "start"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def held_checkpoint(self) -> Path:
        return self.path / "held"

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        return self.path / "wandb"

    @property
    def mlflow(self) -> Path:
        return self.path / "mlflow"

    @property
    def last_words(self) -> Path:
        return self.path / "ranks"

    @property
    def _reserve(self) -> Path:
        return self.path / ".reserve"

    def read_spec(self) -> RunSpec:
        """What to do.

        Raises:
            pydantic.ValidationError: The file is not a RunSpec of this version.
        """
        return RunSpec.model_validate_json(self.spec_file.read_bytes(), context=STORED)

    def write_spec(self, spec: RunSpec) -> None:
        write_atomically(self.spec_file, spec.model_dump_json(indent=2).encode())

    def read_export(self) -> ExportSpec:
        """What to export.

        Raises:
            pydantic.ValidationError: The file is not an ExportSpec of this version.
        """
        return ExportSpec.model_validate_json(self.export_file.read_bytes(), context=STORED)

    def write_export(self, spec: ExportSpec) -> None:
        write_atomically(self.export_file, spec.model_dump_json(indent=2).encode())

    def read_stop_reason(self) -> StopReason:
        """Why the process got its TERM; a bare TERM, without a file, is a drain."""
        try:
            return json.loads(self.stop_file.read_bytes())["reason"]  # type: ignore[no-any-return]
        except FileNotFoundError:
            return "drain"

    def write_stop_reason(self, reason: StopReason) -> None:
        write_atomically(self.stop_file, json.dumps({"reason": reason}).encode())

    def is_to_keep(self) -> bool:
        """Whether training is to end with a result of what is trained so far."""
        return self.stop_file.exists() and self.read_stop_reason() == "stop"

    def withdraw_stop(self) -> None:
        self.stop_file.unlink(missing_ok=True)

    def reserve_last_words(self) -> None:
        """Hold some space, so that a run can say that the disk is full when it is."""
        self._reserve.write_bytes(bytes(_RESERVE_BYTES))

    def release_reserve(self) -> None:
        self._reserve.unlink(missing_ok=True)

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"checkpoint-{step}"

    def newest_valid_checkpoint(self) -> Path | None:
        """The checkpoint of the highest step whose every file matches its manifest."""
        folders = [p for p in self.checkpoints.glob("checkpoint-*") if p.name[11:].isdigit()]
        for folder in sorted(folders, key=lambda p: int(p.name[11:]), reverse=True):
            if verify(folder):
                return folder
        return None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path`: after a crash it holds the old bytes or all of the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def complete_folder(
    target: Path, *, step: int | None = None, attempt: int | None = None
) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `target`, with a manifest, when the block ends.

    An existing `target` is replaced. If the block raises, nothing appears under `target`.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    remove_folder(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        write_manifest(temporary, step=step, attempt=attempt)
        remove_folder(target)
        temporary.rename(target)
        _sync_folder(target.parent)
    except BaseException:
        remove_folder(temporary)
        raise


def write_manifest(
    folder: Path, *, step: int | None = None, attempt: int | None = None
) -> Manifest:
    """Flush every file of `folder` to disk, then list them with sizes and hashes."""
    entries = []
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        name = path.relative_to(folder).as_posix()
        entries.append(FileEntry(path=name, bytes=path.stat().st_size, sha256=digest))
    manifest = Manifest(files=tuple(entries), step=step, attempt=attempt)
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
    return manifest


def read_manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / MANIFEST).read_bytes())


def verify(folder: Path) -> bool:
    """Whether `folder` has a manifest and holds exactly the files it lists, unchanged."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError):
        return False
    listed = {entry.path: entry for entry in manifest.files}
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    return listed.keys() == present.keys() and all(
        path.stat().st_size == listed[name].bytes and _sha256(path) == listed[name].sha256
        for name, path in present.items()
    )


def remove_folder(folder: Path) -> None:
    """Delete a folder and what is in it; what is gone, or goes meanwhile, is fine."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_folder(path)
            else:
                path.unlink(missing_ok=True)
        folder.rmdir()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
