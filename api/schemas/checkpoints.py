"""Checkpoints in OpenAI's shape; `attempt` and `bytes` are ours."""

from typing import Any, Literal

from api.schemas.common import Identified, seconds
from jobs.models import Checkpoint, Job
from jobs.names import checkpoint_name
from training.run_directory import Manifest


class CheckpointReply(Identified):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, Any]
    attempt: int
    bytes: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, job: Job) -> "CheckpointReply":
        return cls(
            id=checkpoint.id,
            created_at=seconds(checkpoint.created_at),
            fine_tuning_job_id=job.id,
            fine_tuned_model_checkpoint=checkpoint_name(job.fine_tuned_model, checkpoint.step),
            step_number=checkpoint.step,
            metrics={"step": checkpoint.step, **checkpoint.metrics},
            attempt=checkpoint.attempt,
            bytes=Manifest.model_validate(checkpoint.manifest).total_bytes,
        )
