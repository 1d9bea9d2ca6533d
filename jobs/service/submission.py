"""A job comes in: everything that can be known without loading the model is checked here."""

import secrets
from typing import Any

from pydantic import ValidationError
from sqlalchemy import insert
from sqlalchemy.orm import Session, make_transient_to_detached

from jobs import metadata
from jobs.database import now
from jobs.errors import InvalidRequest
from jobs.identity import Identity
from jobs.models import Job, JobFile, new_id, table_of
from jobs.names import tuned_name
from jobs.requests import JobRequest
from jobs.service.events import Draft, open_stream
from jobs.service.hyperparameters import echoed, merged
from jobs.service.inputs import check_format, inputs_of, is_waited_for, pin, resolve
from jobs.service.placement import placed
from jobs.service.starts import Origin, Start, inherited, origin_of
from jobs.states import JobStatus
from training.config import TrainingConfig
from training.facts import ModelFacts
from training.json_lines import shown
from training.section import CONFLICT

_FIRST_WORDS = {
    JobStatus.QUEUED: "The job is queued",
    JobStatus.VALIDATING_FILES: "The job waits for the check of its files",
}
_NEW = insert(table_of(Job))
_BLANK = {each.name: getattr(each.default, "arg", None) for each in table_of(Job).columns}
_PIN = insert(table_of(JobFile))


def submit(session: Session, identity: Identity, request: JobRequest) -> Job:
    """Keep a job that can run, queued; if its files are still to be checked, it waits for that.

    Raises:
        InvalidRequest: Something asked for cannot work; the message says what would.
    """
    request = placed(request)
    origin = origin_of(session, identity, request.model)
    facts = ModelFacts.model_validate(origin.base.facts)
    inputs = inputs_of(session, identity, request)
    check_format(request.training, inputs)
    asked = _put_together(request, origin.start)
    training, status = resolve(asked, facts, inputs, origin.start), JobStatus.QUEUED
    if is_waited_for(inputs):
        training, status = asked, JobStatus.VALIDATING_FILES
    job = _insert(session, _new_job(session, identity, request, origin, training, status))
    session.execute(_PIN, [pin(job, item) for item in inputs])
    metadata.index(session, job)
    open_stream(
        session,
        job.id,
        [
            Draft("message", f"Created fine-tuning job: {job.id}"),
            Draft("status", _FIRST_WORDS[status], data={"status": status}),
        ],
    )
    return job


def _put_together(request: JobRequest, start: Start | None) -> TrainingConfig:
    """The configuration of what is asked for in several places, and of what is gone on from.

    Raises:
        InvalidRequest: Each is good by itself, but they cannot work together.
    """
    training = inherited(merged(request), start)
    if training is request.training:  # as it came, which is valid
        return training
    try:
        TrainingConfig.model_validate(training.model_dump(mode="json"))
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(("training", *map(str, first["loc"])))
        words = first["msg"].replace("Input", param)
        if first["type"] != CONFLICT:
            words += f", but is {shown(first['input'])}"
        if start is not None:
            words += f" (with what comes from {start.name!r})"
        raise InvalidRequest(words, param=param, code="invalid_value") from None
    return training


def _new_job(
    session: Session,
    identity: Identity,
    request: JobRequest,
    origin: Origin,
    training: TrainingConfig,
    status: JobStatus,
) -> dict[str, Any]:
    job_id = new_id("ftjob-")
    at = now(session)
    base, start = origin.base, origin.start
    assert base.facts is not None
    return {
        "id": job_id,
        "project_id": identity.project_id,
        "created_by": identity.key_id,
        "status": status,
        "model_id": base.id,
        "model": request.model,
        "model_sha256": base.facts["sha256"],
        "fine_tuned_model": tuned_name(base.name, identity.organization, request.suffix, job_id),
        "start_job_id": None if start is None else start.job.id,
        "start_checkpoint_id": (
            None if start is None or start.checkpoint is None else start.checkpoint.id
        ),
        "suffix": request.suffix,
        "seed": secrets.randbelow(2**31) if request.seed is None else request.seed,
        "training": training.model_dump(mode="json"),
        "hyperparameters": echoed(training),
        "user_metadata": request.metadata or None,
        "integrations": [each.model_dump() for each in request.integrations or ()] or None,
        "pool": request.resources.pool,
        "gpus": request.resources.gpus,
        "requires": ",".join(sorted(training.requires)),
        "priority": request.priority,
        "limits": request.limits.model_dump(),
        "max_pending_seconds": request.limits.max_pending_seconds,
        "created_at": at,
        "queued_at": at,
    }


def _insert(session: Session, values: dict[str, Any]) -> Job:
    """A job of these values, as adding it to the session makes one, for a third of the time."""
    row = _BLANK | values
    session.execute(_NEW, row)
    job = Job(**row)
    make_transient_to_detached(job)
    session.add(job)
    return job
