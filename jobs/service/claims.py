"""A worker asks for work: one short transaction under one lock chooses, opens a run, takes slots.

Call `claim` inside `Database.claiming()`. What is free is computed from the open runs, so there
is no second count that could drift from the truth.
"""

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Checkpoint, Export, File, Job, JobFile, Model, Run, Worker, new_id
from jobs.service.catalogue import PENDING
from jobs.service.export_runs import ExportPlan, begin, next_export, plan
from jobs.service.file_checks import CheckAssignment, begin_check, check_assignment, next_file
from jobs.service.moves import move
from jobs.service.starts import TunedWeights, tuned_weights
from jobs.settings import Settings
from jobs.states import JobStatus, RunKind
from training.config import TrainingConfig
from training.data_config import ContainerName, FormatName
from training.integration_config import MlflowConfig, WandbConfig
from training.run_directory import Manifest
from training.section import Section

Config = TypeVar("Config", bound=Section)

GPU, CPU, LIGHT = "gpu", "cpu", "light"
_BEST = 16
"""Of so many a claim takes the first that nobody has locked: more are not changed at once."""


@dataclass(frozen=True)
class Offer:
    """What a worker's host has. Without a GPU its CPU is one slot; a light slot comes beside."""

    worker_id: str
    pool: str
    gpus: int
    provides: frozenset[str]


@dataclass(frozen=True)
class Claim:
    """A run that is now this worker's, as long as it renews the lease."""

    run_id: str
    lease_token: str
    kind: RunKind
    attempt: int
    job_id: str | None
    model_id: str | None
    export_id: str | None
    file_id: str | None
    slot: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True)
class ModelSource:
    """Where a base model comes from; `sha256` is what a job is pinned to."""

    model_id: str
    name: str
    source: str
    revision: str | None
    sha256: str | None


@dataclass(frozen=True)
class StagedFile:
    """A data file of a job, to be fetched from the store and checked against its pin."""

    role: str
    artifact_key: str
    sha256: str
    container: ContainerName
    format: FormatName
    weight: float


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in the store: its files lie under `key_prefix`."""

    id: str
    step: int
    attempt: int
    key_prefix: str
    manifest: Manifest


@dataclass(frozen=True)
class TrainAssignment:
    """Everything a training run needs to know; checkpoints come newest first."""

    training: TrainingConfig
    seed: int
    model: ModelSource
    files: tuple[StagedFile, ...]
    checkpoints: tuple[StoredCheckpoint, ...]
    tuned: TunedWeights
    wandb: WandbConfig | None
    mlflow: MlflowConfig | None
    fine_tuned_model: str


@dataclass(frozen=True)
class ExportAssignment:
    """Everything the run of an export needs to know."""

    plan: ExportPlan
    model: ModelSource


Assignment = TrainAssignment | ExportAssignment | CheckAssignment | ModelSource


@dataclass(frozen=True)
class _Free:
    gpu_indices: tuple[int, ...]
    cpu: bool
    """Where there are GPUs, of use to exports only."""
    light: bool

    @property
    def slots(self) -> list[str]:
        return [*([LIGHT] if self.light else []), *([CPU] if self.cpu else [])]


def register(session: Session, offer: Offer) -> None:
    """Note that a worker is there and what it offers."""
    session.merge(
        Worker(
            id=offer.worker_id,
            pool=offer.pool,
            gpus=offer.gpus,
            provides=",".join(sorted(offer.provides)),
            seen_at=now(session),
        )
    )


def claim(session: Session, offer: Offer, settings: Settings) -> Claim | None:
    """The most deserving work that fits into what this worker has free, or None."""
    free = _free(session, offer)
    if free.light and (light := _light_run(session, offer, settings)) is not None:
        return _claimed(session, light)
    requirements = list(_satisfied(offer.provides))
    export = next_export(session, offer.pool, free.slots, requirements)
    if export is not None:  # before any job: it is short, and somebody waits for what is trained
        run = _open(session, offer, settings, export.slot, ())
        run.kind = RunKind.EXPORT
        begin(export, run)
        return _claimed(session, run)
    job = _most_deserving(session, offer, free)
    if job is None:
        return None
    count = job.gpus if job.gpus is not None else min(1, offer.gpus)
    slot = GPU if count else CPU
    return _start(session, job, _open(session, offer, settings, slot, free.gpu_indices[:count]))


def _light_run(session: Session, offer: Offer, settings: Settings) -> Run | None:
    """A run that reads what is new: a model of the catalogue, or an uploaded file."""
    if (model := session.scalar(_pending_models())) is not None:
        model.attempts += 1
        run = _open(session, offer, settings, LIGHT, ())
        run.kind, run.model_id, run.attempt = RunKind.INSPECT, model.id, model.attempts
        return run
    if (file := next_file(session)) is not None:
        run = _open(session, offer, settings, LIGHT, ())
        run.kind = RunKind.CHECK
        begin_check(file, run)
        return run
    return None


def assignment(session: Session, claimed: Claim) -> Assignment:
    """What a claimed run is to do."""
    if claimed.kind == RunKind.INSPECT:
        return _source(session.get_one(Model, claimed.model_id), None)
    if claimed.kind == RunKind.CHECK:
        return check_assignment(session, claimed.file_id)
    if claimed.kind == RunKind.EXPORT:
        export = session.get_one(Export, claimed.export_id)
        job = session.get_one(Job, export.job_id)
        base = _source(session.get_one(Model, job.model_id), job.model_sha256)
        return ExportAssignment(plan(session, export, job), base)
    job = session.get_one(Job, claimed.job_id)
    return TrainAssignment(
        training=TrainingConfig.kept(job.training),
        seed=job.seed,
        model=_source(session.get_one(Model, job.model_id), job.model_sha256),
        files=tuple(_staged_files(session, job)),
        checkpoints=tuple(_stored_checkpoints(session, job)),
        tuned=tuned_weights(session, job),
        wandb=_integration(job, "wandb", WandbConfig),
        mlflow=_integration(job, "mlflow", MlflowConfig),
        fine_tuned_model=job.fine_tuned_model,
    )


def _start(session: Session, job: Job, run: Run) -> Claim:
    job.attempt += 1
    run.kind, run.job_id, run.attempt = RunKind.TRAIN, job.id, job.attempt
    job.started_at = job.started_at or run.started_at
    move(session, job, JobStatus.RUNNING, f"Attempt {job.attempt} started on {run.worker_id}")
    job.phase = "starting"
    return _claimed(session, run)


def _open(
    session: Session, offer: Offer, settings: Settings, slot: str, gpu_indices: tuple[int, ...]
) -> Run:
    at = now(session)
    return Run(
        id=new_id("run-"),
        worker_id=offer.worker_id,
        lease_token=secrets.token_hex(16),
        lease_expires_at=at + settings.lease_seconds,
        slot=slot,
        gpu_indices=list(gpu_indices),
        started_at=at,
    )


def _claimed(session: Session, run: Run) -> Claim:
    session.add(run)
    session.flush()
    return Claim(
        run_id=run.id,
        lease_token=run.lease_token,
        kind=run.kind,
        attempt=run.attempt,
        job_id=run.job_id,
        model_id=run.model_id,
        export_id=run.export_id,
        file_id=run.file_id,
        slot=run.slot,
        gpu_indices=tuple(run.gpu_indices),
    )


def _free(session: Session, offer: Offer) -> _Free:
    holding = list(
        session.scalars(
            select(Run).where(
                Run.ended_at.is_(None),
                Run.slots_freed_at.is_(None),
                Run.worker_id == offer.worker_id,
            )
        )
    )
    taken = {index for run in holding for index in run.gpu_indices}
    slots = {run.slot for run in holding}
    return _Free(
        gpu_indices=tuple(index for index in range(offer.gpus) if index not in taken),
        cpu=CPU not in slots,
        light=LIGHT not in slots,
    )


def _pending_models() -> Select[Model]:
    open_runs = select(Run.model_id).where(Run.ended_at.is_(None), Run.model_id.is_not(None))
    return (
        select(Model)
        .where(Model.status == PENDING, Model.removed_at.is_(None), Model.id.not_in(open_runs))
        .order_by(Model.created_at)
        .limit(1)
    )


def _most_deserving(session: Session, offer: Offer, free: _Free) -> Job | None:
    """A queued job that fits, locked.

    Who else locks a queued job changes it, and rings the bell if it stays queued.
    """
    for job_id in session.scalars(_queue(offer, free)).all():
        job = session.scalar(
            select(Job)
            .where(Job.id == job_id, Job.status == JobStatus.QUEUED)
            .with_for_update(skip_locked=True)
        )
        if job is not None:
            return job
    return None


def _queue(offer: Offer, free: _Free) -> Select[str]:
    """Highest priority first, then the owner with least running, then who waits longest.

    Nothing is asked for but what is in the index of the queue: no row is read.
    """
    running = (
        select(Job.created_by, func.count().label("count"))
        .where(Job.status == JobStatus.RUNNING)
        .group_by(Job.created_by)
        .subquery()
    )
    largest = len(free.gpu_indices) if offer.gpus else (0 if free.cpu else -1)
    least = min(1, offer.gpus)
    return (
        select(Job.id)
        .outerjoin(running, running.c.created_by == Job.created_by)
        .where(
            Job.status == JobStatus.QUEUED,
            Job.pool == offer.pool,
            Job.requires.in_(list(_satisfied(offer.provides))),
            func.coalesce(Job.gpus, least).between(least, largest),
            Job.id.not_in(_STILL_HELD),
        )
        .order_by(Job.priority.desc(), func.coalesce(running.c.count, 0), Job.queued_at, Job.id)
        .limit(_BEST)
    )


# A run of the job is still open (its processes may live): one job never trains twice.
_STILL_HELD = select(Run.job_id).where(Run.ended_at.is_(None), Run.job_id.is_not(None))


def _satisfied(provides: frozenset[str]) -> Iterator[str]:
    for size in range(len(provides) + 1):
        for subset in itertools.combinations(sorted(provides), size):
            yield ",".join(subset)


def _source(model: Model, sha256: str | None) -> ModelSource:
    assert model.source is not None
    return ModelSource(
        model_id=model.id,
        name=model.name,
        source=model.source,
        revision=model.revision,
        sha256=sha256,
    )


def _integration(job: Job, kind: str, config: type[Config]) -> Config | None:
    asked = [each[kind] for each in job.integrations or () if each["type"] == kind]
    return config.model_validate(asked[0]) if asked else None


def _staged_files(session: Session, job: Job) -> Iterator[StagedFile]:
    rows = session.execute(
        select(JobFile, File.artifact_key, File.container)
        .join(File, File.id == JobFile.file_id)
        .where(JobFile.job_id == job.id)
        .order_by(JobFile.role, JobFile.position)
    )
    for pin, key, container in rows:
        assert pin.format is not None
        yield StagedFile(pin.role, key, pin.sha256, container or "jsonl", pin.format, pin.weight)


def _stored_checkpoints(session: Session, job: Job) -> Iterator[StoredCheckpoint]:
    query = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.deleted_at.is_(None))
    for row in session.scalars(query.order_by(Checkpoint.step.desc())):
        manifest = Manifest.model_validate(row.manifest)
        yield StoredCheckpoint(row.id, row.step, row.attempt, row.key_prefix, manifest)
