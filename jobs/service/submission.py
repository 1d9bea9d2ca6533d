"""A job comes in: everything that can be known without loading the model is checked here."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import InvalidRequest, NotFound
from jobs.identity import Identity
from jobs.models import File, Job, JobFile, Model, new_id, table_of
from jobs.repository import Lock, file_of, model_of, models_of
from jobs.requests import JobRequest
from jobs.service.events import Draft, open_stream
from jobs.service.files import summary
from jobs.service.hyperparameters import echoed, merged
from jobs.states import JobStatus
from training.config import FORMAT_NAMES, TrainingConfig, resolved
from training.facts import ModelFacts, misfits
from training.formats import FileReport, RowError

_PURPOSE = "fine-tune"
_PIN = insert(table_of(JobFile))


@dataclass(frozen=True)
class _Input:
    role: str
    position: int
    file: File
    weight: float


def submit(session: Session, identity: Identity, request: JobRequest) -> Job:
    """Keep a job that can run, queued.

    Raises:
        InvalidRequest: Something asked for cannot work; the message says what would.
    """
    model = _base_model(session, identity, request.model)
    facts = ModelFacts.model_validate(model.facts)
    inputs = _inputs(session, identity, request)
    _check_format(request.training, inputs)
    training = _resolve(request, facts, inputs)
    _check_fit(training, facts, inputs)
    job = _new_job(session, identity, request, model, training)
    session.add(job)
    session.flush()
    session.execute(_PIN, [_pin(job, item) for item in inputs])
    open_stream(
        session,
        job.id,
        [
            Draft("message", f"Created fine-tuning job: {job.id}"),
            Draft("status", "The job is queued", data={"status": JobStatus.QUEUED}),
        ],
    )
    return job


def _base_model(session: Session, identity: Identity, name: str) -> Model:
    try:
        model = model_of(session, identity, name, lock=Lock.KEEP)
    except NotFound:
        model = None
    if model is None or model.project_id is not None:
        bases = [m.name for m in models_of(session, identity) if m.project_id is None]
        raise InvalidRequest(
            f"model: {name!r} is not a base model of the catalogue; it has "
            f"{', '.join(map(repr, bases)) or 'none yet: an admin adds one at POST /v1/models'}",
            param="model",
            code="model_not_found",
        )
    if model.status != "ready":
        reason = (
            f"could not be read: {model.error['message']}"
            if model.error
            else "is still being inspected; try again in a moment"
        )
        raise InvalidRequest(f"model: {name!r} {reason}", param="model", code="model_not_ready")
    return model


def _inputs(session: Session, identity: Identity, request: JobRequest) -> list[_Input]:
    single = request.training_file is not None
    inputs = [
        _Input(
            "training",
            position,
            _data_file(
                session,
                identity,
                entry.file,
                "training_file" if single else f"training_files.{position}.file",
            ),
            entry.weight,
        )
        for position, entry in enumerate(request.files)
    ]
    if request.validation_file is not None:
        file = _data_file(session, identity, request.validation_file, "validation_file")
        inputs.append(_Input("validation", 0, file, 1.0))
    return inputs


def _data_file(session: Session, identity: Identity, file_id: str, param: str) -> File:
    try:
        file = file_of(session, identity, file_id, lock=Lock.KEEP)
    except NotFound as error:
        raise InvalidRequest(
            f"{param}: no file {file_id!r} in this project; upload one at POST /v1/files",
            param=param,
            code="file_not_found",
        ) from error
    if file.purpose != _PURPOSE:
        raise InvalidRequest(
            f"{param}: the purpose of {file_id!r} is {file.purpose!r}; "
            f"a job reads files with purpose {_PURPOSE!r}",
            param=param,
            code="invalid_file_purpose",
        )
    if file.status == "error":
        raise InvalidRequest(
            f"{param}: {file_id!r} has rows in error: {_report(file)}",
            param=param,
            code="invalid_training_file",
        )
    return file


def _report(file: File) -> str:
    assert file.report is not None
    errors = tuple(RowError(**error) for error in file.report["errors"])
    return summary(FileReport(**{**file.report, "errors": errors}))


def _check_format(training: TrainingConfig, inputs: Sequence[_Input]) -> None:
    asked = training.data.format
    for item in inputs:
        if asked is not None and item.file.format != asked:
            raise InvalidRequest(
                f"training.data.format: line 1 of {item.file.id} ({item.file.filename}) is "
                f"{item.file.format!r}, not {asked!r}; the formats are {', '.join(FORMAT_NAMES)}",
                param="training.data.format",
                code="format_mismatch",
            )


def _resolve(request: JobRequest, facts: ModelFacts, inputs: Sequence[_Input]) -> TrainingConfig:
    rows = sum((i.file.num_rows or 0) * i.weight for i in inputs if i.role == "training")
    return resolved(
        merged(request), num_rows=max(1, round(rows)), context_length=facts.context_length
    )


def _check_fit(training: TrainingConfig, facts: ModelFacts, inputs: Sequence[_Input]) -> None:
    for misfit in misfits(training, facts):
        raise InvalidRequest(misfit.message, param=misfit.param)
    chat = any(item.file.format == "messages" for item in inputs)
    if chat and training.data.template == "auto" and not facts.has_chat_template:
        raise InvalidRequest(
            "training.data.template: the model has no chat template of its own; "
            "name one, e.g. 'chatml'",
            param="training.data.template",
        )


def _new_job(
    session: Session,
    identity: Identity,
    request: JobRequest,
    model: Model,
    training: TrainingConfig,
) -> Job:
    job_id = new_id("ftjob-")
    at = now(session)
    suffix = re.sub(r"[^a-z0-9-]+", "-", (request.suffix or "").lower()).strip("-")
    assert model.facts is not None
    return Job(
        id=job_id,
        project_id=identity.project_id,
        created_by=identity.key_id,
        status=JobStatus.QUEUED,
        model_id=model.id,
        model=model.name,
        model_sha256=model.facts["sha256"],
        fine_tuned_model=f"ft:{model.name}:{identity.organization}:{suffix}:{job_id[-8:]}",
        suffix=request.suffix,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        training=training.model_dump(mode="json"),
        hyperparameters=echoed(training),
        user_metadata=request.metadata or None,
        pool=request.resources.pool,
        gpus=request.resources.gpus,
        requires=",".join(sorted(training.requires)),
        priority=request.priority,
        limits=request.limits.model_dump(),
        created_at=at,
        queued_at=at,
    )


def _pin(job: Job, item: _Input) -> dict[str, Any]:
    assert item.file.format is not None
    return {
        "job_id": job.id,
        "role": item.role,
        "position": item.position,
        "file_id": item.file.id,
        "sha256": item.file.sha256,
        "format": item.file.format,
        "weight": item.weight,
    }
