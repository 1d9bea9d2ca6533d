"""Jobs in OpenAI's shape, and what this server says beside it."""

from collections.abc import Sequence
from typing import Any, Literal

from api.schemas.common import Reply, optional_seconds, seconds
from jobs.identity import Identity
from jobs.models import Artifact, Job, JobFile
from jobs.service.waiting import Place
from jobs.states import JobStatus

CREATE_EXAMPLES: dict[str, Any] = {
    "smallest": {
        "summary": "A model and a file; everything else is chosen by the server",
        "value": {
            "model": "smollm2-135m-instruct",
            "training_file": "file-5f2c7a90b1d84e3f6a1c2b3d",
        },
    },
    "openai": {
        "summary": "As the OpenAI client sends it",
        "value": {
            "model": "smollm2-135m-instruct",
            "training_file": "file-5f2c7a90b1d84e3f6a1c2b3d",
            "suffix": "tickets",
            "seed": 42,
            "metadata": {"team": "support"},
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}},
            },
        },
    },
    "qlora": {
        "summary": "QLoRA with its own settings, in HF's and PEFT's words",
        "value": {
            "model": "smollm2-135m-instruct",
            "training_file": "file-5f2c7a90b1d84e3f6a1c2b3d",
            "validation_file": "file-0a1b2c3d4e5f60718293a4b5",
            "training": {
                "data": {"max_length": 1024, "packing": True},
                "model": {"quantization": {"bits": 4, "type": "nf4", "double_quant": True}},
                "adapter": {"type": "lora", "r": 64, "lora_alpha": 16, "lora_dropout": 0.05},
                "optimization": {"num_train_epochs": 3, "learning_rate": 0.0001},
                "checkpoints": {"save_steps": 100, "keep": 3},
            },
        },
    },
}

RERUN_EXAMPLES: dict[str, Any] = {
    "as it was": {"value": {}},
    "changed": {
        "summary": "A lower learning rate, and no limit",
        "value": {
            "training": {"optimization": {"learning_rate": 0.00005}},
            "limits": {"max_runtime_seconds": None},
        },
    },
}


class SupervisedReply(Reply):
    hyperparameters: dict[str, Any]


class MethodReply(Reply):
    type: Literal["supervised"] = "supervised"
    supervised: SupervisedReply


class ErrorOfJob(Reply):
    """Why a job failed; `remedy` says what to do, `fault` whose it was."""

    code: str
    message: str
    param: str | None = None
    remedy: str | None = None
    fault: str | None = None


class WeightedFile(Reply):
    file: str
    weight: float


class ResourcesReply(Reply):
    pool: str
    gpus: int | None


class QueueReply(Reply):
    """`position`: jobs of the pool that come first; `reason`: what this one waits for."""

    position: int
    pool: str
    priority: int
    reason: str


class AdapterReply(Reply):
    bytes: int
    sha256: str
    url: str


class JobReply(Reply):
    """`intent` and what follows it is ours."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: JobStatus
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: MethodReply
    result_files: list[str]
    seed: int
    error: ErrorOfJob | None
    integrations: list[Any] | None = None
    metadata: dict[str, str] | None
    suffix: str | None

    rerun_of: str | None
    intent: str | None
    phase: str | None
    progress: dict[str, Any] | None
    training: dict[str, Any]
    training_files: list[WeightedFile]
    resources: ResourcesReply
    priority: int
    limits: dict[str, Any]
    attempt: int
    crashes: int
    started_at: int | None
    queue: QueueReply | None
    adapter: AdapterReply | None

    @classmethod
    def of(
        cls,
        job: Job,
        identity: Identity,
        files: Sequence[JobFile],
        *,
        adapter: Artifact | None,
        place: Place | None,
        estimated_finish: float | None,
    ) -> "JobReply":
        training = [f for f in files if f.role == "training"]
        validation = [f.file_id for f in files if f.role == "validation"]
        succeeded = job.status == JobStatus.SUCCEEDED
        return cls(
            id=job.id,
            created_at=seconds(job.created_at),
            finished_at=optional_seconds(job.finished_at),
            estimated_finish=optional_seconds(estimated_finish),
            model=job.model,
            fine_tuned_model=job.fine_tuned_model if succeeded else None,
            organization_id=identity.organization,
            status=job.status,
            trained_tokens=job.trained_tokens,
            training_file=training[0].file_id,
            validation_file=validation[0] if validation else None,
            hyperparameters=job.hyperparameters,
            method=MethodReply(supervised=SupervisedReply(hyperparameters=job.hyperparameters)),
            result_files=[] if job.result_file_id is None else [job.result_file_id],
            seed=job.seed,
            error=None if job.error is None else ErrorOfJob.model_validate(job.error),
            integrations=job.integrations,
            metadata=job.user_metadata,
            suffix=job.suffix,
            rerun_of=job.rerun_of,
            intent=job.intent,
            phase=job.phase,
            progress=job.progress,
            training=job.training,
            training_files=[WeightedFile(file=f.file_id, weight=f.weight) for f in training],
            resources=ResourcesReply(pool=job.pool, gpus=job.gpus),
            priority=job.priority,
            limits=job.limits,
            attempt=job.attempt,
            crashes=job.crashes,
            started_at=optional_seconds(job.started_at),
            queue=None if place is None else _queue(job, place),
            adapter=None if adapter is None else _adapter(adapter),
        )


def _queue(job: Job, place: Place) -> QueueReply:
    return QueueReply(
        position=place.position, pool=job.pool, priority=job.priority, reason=place.reason
    )


def _adapter(artifact: Artifact) -> AdapterReply:
    return AdapterReply(
        bytes=artifact.bytes,
        sha256=artifact.sha256,
        url=f"/v1/fine_tuning/jobs/{artifact.job_id}/adapter",
    )


class AdapterFileReply(Reply):
    """One member of the adapter; `name` is its path in the archive."""

    object: Literal["fine_tuning.job.adapter.file"] = "fine_tuning.job.adapter.file"
    name: str
    bytes: int
    sha256: str
    url: str

    @classmethod
    def of(cls, artifact: Artifact) -> "AdapterFileReply":
        name = artifact.name.removeprefix("adapter/")
        return cls(
            name=name,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            url=f"/v1/fine_tuning/jobs/{artifact.job_id}/adapter/files/{name}",
        )
