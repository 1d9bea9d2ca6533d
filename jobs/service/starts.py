"""What a job starts from: a base model of the catalogue, or weights that were tuned here.

A tuned model is an adapter over its base, or a whole model. Training goes on from an adapter on
the same base; a whole model is loaded in the base's place, and so is the whole model an adapter
was trained on, however many jobs lie between.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.errors import InvalidRequest, NotFound
from jobs.identity import Identity
from jobs.models import Artifact, Checkpoint, Job, Model
from jobs.names import checkpoint_name, split_checkpoint_name
from jobs.repository import Lock, model_of, models_of, named_checkpoint
from jobs.service.catalogue import READY
from training.adapter_config import AdapterConfig
from training.config import TrainingConfig
from training.data_config import DataConfig
from training.model_config import ModelConfig
from training.run_directory import MANIFEST, Manifest

_MEMBERS = "adapter/"
_STAGED_SUFFIXES = (".safetensors", ".json", ".jinja", ".md", ".model", ".txt")
"""Nothing that could run code when it is opened, and no optimiser state."""
_NOT_STAGED = frozenset({MANIFEST, "ledger.json", "trainer_state.json"})
_FREE_KEYS = frozenset({"lora_dropout", "loraplus_lr_ratio"})
"""Of an adapter: they may change on the way, for no weight depends on them."""
_LAYOUT_KEYS = frozenset({"template", "default_system", "add_bos_token"})
"""Of the data: they shape the template that a job is trained in and saved with."""
_TOKEN_KEYS = ("add_tokens", "add_special_tokens")


@dataclass(frozen=True)
class Start:
    """What another job has trained: its result, or one of its checkpoints."""

    job: Job
    checkpoint: Checkpoint | None

    @property
    def name(self) -> str:
        tuned = self.job.fine_tuned_model
        return tuned if self.checkpoint is None else checkpoint_name(tuned, self.checkpoint.step)

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig.kept(self.job.training)

    @property
    def is_adapter(self) -> bool:
        return self.training.adapter.type != "none"


@dataclass(frozen=True)
class Origin:
    """The base model of a new job, and what was tuned of it so far."""

    base: Model
    start: Start | None


@dataclass(frozen=True)
class StoredFile:
    """A file in the store, and its path below the folder it belongs to."""

    path: str
    key: str
    sha256: str


@dataclass(frozen=True)
class StoredWeights:
    """Weights tuned here, by the name they have as a model."""

    name: str
    files: tuple[StoredFile, ...]


@dataclass(frozen=True)
class TunedWeights:
    """What a run loads beside, or instead of, its base model."""

    whole: StoredWeights | None
    adapter: StoredWeights | None


def origin_of(session: Session, identity: Identity, name: str) -> Origin:
    """What the model that a new job asks for is.

    Raises:
        InvalidRequest: The project sees no such model, or its base model cannot be used.
    """
    start = _start_named(session, identity, name)
    if start is None:
        base = _visible_model(session, identity, name)
    else:
        base = session.get_one(Model, start.job.model_id, with_for_update={"read": True})
    if base is None:
        raise _not_found(session, identity, name)
    if base.removed_at is not None:
        raise InvalidRequest(
            f"model: {name!r} was tuned from {base.name!r}, which is not in the catalogue any "
            "more; an admin may add it again, and a new model be tuned from it",
            param="model",
            code="model_not_found",
        )
    _check_ready(base)
    return Origin(base, start)


def inherited(training: TrainingConfig, start: Start | None) -> TrainingConfig:
    """`training` with what it has to share with its start taken over.

    Raises:
        InvalidRequest: It says something else.
    """
    if start is None:
        return training
    before = start.training
    update: dict[str, Any] = {"data": _same_layout(training.data, before)}
    if start.is_adapter:
        update["adapter"] = _same_adapter(training.adapter, before.adapter, start.name)
        update["model"] = _same_tokens(training.model, before.model, start.name)
    return training.model_copy(update=update)


def without_inherited(data: DataConfig, start: Start, params: Container[str]) -> DataConfig:
    """`data` without those of `params` that are part of its start's layout, and say the same."""
    kept = _values(start.training.data, _LAYOUT_KEYS)
    idle = {k for k, v in kept.items() if f"training.data.{k}" in params and getattr(data, k) == v}
    return data.model_copy(update=_values(DataConfig(), idle))


def start_of(session: Session, job: Job) -> Start | None:
    """What a job goes on from."""
    if job.start_job_id is None:
        return None
    checkpoint = (
        None
        if job.start_checkpoint_id is None
        else session.get_one(Checkpoint, job.start_checkpoint_id)
    )
    return Start(session.get_one(Job, job.start_job_id), checkpoint)


def tuned_weights(session: Session, job: Job) -> TunedWeights:
    """What the job's run has to load of what was tuned before it."""
    return _weights(session, start_of(session, job))


def trained_weights(session: Session, job: Job, checkpoint: Checkpoint | None) -> TunedWeights:
    """What the job has trained, up to a checkpoint or to its end, and what lies under it."""
    return _weights(session, Start(job, checkpoint))


def _weights(session: Session, start: Start | None) -> TunedWeights:
    adapter: Start | None = None
    while start is not None:
        if not start.is_adapter:
            return TunedWeights(_stored(session, start), _stored(session, adapter))
        adapter, start = adapter or start, start_of(session, start.job)
    return TunedWeights(None, _stored(session, adapter))


def _start_named(session: Session, identity: Identity, name: str) -> Start | None:
    if split_checkpoint_name(name) is not None:
        try:
            checkpoint, job = named_checkpoint(session, identity, name)
        except NotFound:
            return None
        return Start(job, checkpoint)
    model = _visible_model(session, identity, name) if name.startswith("ft:") else None
    return None if model is None else Start(session.get_one(Job, model.job_id), None)


def _visible_model(session: Session, identity: Identity, name: str) -> Model | None:
    try:
        return model_of(session, identity, name, lock=Lock.KEEP)
    except NotFound:
        return None


def _not_found(session: Session, identity: Identity, name: str) -> InvalidRequest:
    models = models_of(session, identity)
    bases = [repr(m.name) for m in models if m.project_id is None and m.status == READY]
    offered = ", ".join(bases) or "none that is ready: an admin adds one at POST /v1/models"
    return InvalidRequest(
        f"model: {name!r} is no base model of the catalogue, and nothing that was tuned in this "
        f"project or is shared with it; the catalogue has {offered}",
        param="model",
        code="model_not_found",
    )


def _check_ready(base: Model) -> None:
    if base.status != READY:
        reason = (
            f"could not be read: {base.error['message']}"
            if base.error
            else "is still being inspected; try again in a moment"
        )
        raise InvalidRequest(
            f"model: {base.name!r} {reason}", param="model", code="model_not_ready"
        )


def _same_layout(asked: DataConfig, before: TrainingConfig) -> DataConfig:
    """What was learnt was learnt in a layout: each key of it is kept unless it is asked for."""
    given = asked.model_fields_set
    template = asked.template if "template" in given else before.data.template
    if before.adapter.type == "none" and template == "auto":
        given = given | {"default_system"}  # a whole model brings its template, which has that
    return asked.model_copy(update=_values(before.data, _LAYOUT_KEYS - given))


def _values(data: DataConfig, keys: Iterable[str]) -> dict[str, Any]:
    return {key: getattr(data, key) for key in keys}


def _same_adapter(asked: AdapterConfig, before: AdapterConfig, name: str) -> AdapterConfig:
    given = asked.model_fields_set
    for key in AdapterConfig.model_fields:
        value, kept = getattr(asked, key), getattr(before, key)
        if key in given - _FREE_KEYS and value != kept:
            raise _mismatch(f"training.adapter.{key}", value, kept, name)
    return before.model_copy(update={k: getattr(asked, k) for k in given & _FREE_KEYS})


def _same_tokens(asked: ModelConfig, before: ModelConfig, name: str) -> ModelConfig:
    """The adapter has rows for the tokens that were added for it, and for no others."""
    for key in _TOKEN_KEYS:
        value, kept = getattr(asked, key), getattr(before, key)
        if key in asked.model_fields_set and value != kept:
            raise _mismatch(f"training.model.{key}", value, kept, name)
    return asked.model_copy(update={key: getattr(before, key) for key in _TOKEN_KEYS})


def _mismatch(param: str, value: object, kept: object, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: {value!r}, but {name!r} has {kept!r}, and training goes "
        "on from its weights; leave the key out, or name the base model as `model` to "
        "begin a new adapter",
        param=param,
        code="adapter_mismatch",
    )


def _stored(session: Session, start: Start | None) -> StoredWeights | None:
    if start is None:
        return None
    if start.checkpoint is None:
        files = _of_result(session, start.job)
    else:
        files = _of_checkpoint(start.checkpoint)
    return StoredWeights(start.name, tuple(_staged(files)))


def _of_result(session: Session, job: Job) -> Iterator[StoredFile]:
    for artifact in session.scalars(select(Artifact).where(Artifact.job_id == job.id)):
        if artifact.name.startswith(_MEMBERS):
            path = artifact.name.removeprefix(_MEMBERS)
            yield StoredFile(path, artifact.key, artifact.sha256)


def _of_checkpoint(checkpoint: Checkpoint) -> Iterator[StoredFile]:
    for entry in Manifest.model_validate(checkpoint.manifest).files:
        yield StoredFile(entry.path, f"{checkpoint.key_prefix}/{entry.path}", entry.sha256)


def _staged(files: Iterable[StoredFile]) -> list[StoredFile]:
    return [f for f in files if f.path.endswith(_STAGED_SUFFIXES) and f.path not in _NOT_STAGED]
