"""Jobs that wait for the check of their files, and what they become when it is over.

Such a job holds its configuration as it was asked for. Its files' formats and numbers of rows
complete it then, and what does not fit fails it, as it would have been refused at once.
"""

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from jobs.errors import InvalidRequest
from jobs.models import File, Job, JobFile, Model
from jobs.repository import files_of_job
from jobs.service.hyperparameters import echoed
from jobs.service.inputs import Input, check_format, in_error, is_waited_for, resolve
from jobs.service.moves import fail, move
from jobs.service.starts import start_of
from jobs.states import FileStatus, JobStatus
from training.config import TrainingConfig
from training.events import Failure
from training.facts import ModelFacts

_WAITING = (JobStatus.VALIDATING_FILES, JobStatus.PAUSED)


def waits_for_files(session: Session, job: Job) -> bool:
    """Whether one of a job's files is still to be checked."""
    pending = exists().where(JobFile.job_id == job.id, JobFile.format.is_(None))
    return bool(session.scalar(select(pending)))


def settle_waiting(session: Session, file: File) -> bool:
    """Go on with the jobs that waited for a file, now that it is checked.

    Returns:
        Whether one of them is queued now.
    """
    waiting = select(JobFile.job_id).where(JobFile.file_id == file.id, JobFile.format.is_(None))
    query = select(Job).where(Job.id.in_(waiting), Job.status.in_(_WAITING))
    jobs = list(session.scalars(query.order_by(Job.id).with_for_update()))
    for job in jobs:
        _settle(session, job)
    return any(job.status == JobStatus.QUEUED for job in jobs)


def _settle(session: Session, job: Job) -> None:
    pins = files_of_job(session, job.id)
    inputs = [
        Input(pin.role, pin.position, session.get_one(File, pin.file_id), pin.weight)
        for pin in pins
    ]
    if (failure := _bad_file(inputs)) is not None:
        fail(session, job, failure)
    elif not is_waited_for(inputs):
        _complete(session, job, pins, inputs)


def _bad_file(inputs: Sequence[Input]) -> Failure | None:
    for item in inputs:
        if item.file.status == FileStatus.ERROR:
            return Failure(
                code="invalid_training_file",
                message=in_error(item.file),
                param=f"{item.role}_file",
                fault="data",
                remedy="correct them, upload the file again, and run the job again with it",
            )
    return None


def _complete(session: Session, job: Job, pins: Sequence[JobFile], inputs: Sequence[Input]) -> None:
    asked = TrainingConfig.kept(job.training)
    facts = ModelFacts.model_validate(session.get_one(Model, job.model_id).facts)
    try:
        check_format(asked, inputs)
        training = resolve(asked, facts, inputs, start_of(session, job))
    except InvalidRequest as refusal:
        fail(
            session,
            job,
            Failure(
                code="invalid_spec",
                message=str(refusal),
                param=refusal.param,
                fault="spec",
                remedy="change what the message names, and run the job again",
            ),
        )
        return
    for pin, item in zip(pins, inputs, strict=True):
        pin.format = item.file.format
    job.training = training.model_dump(mode="json")
    job.hyperparameters = echoed(training)
    if job.status == JobStatus.VALIDATING_FILES:
        move(session, job, JobStatus.QUEUED, "The files are checked, and the job is queued")
