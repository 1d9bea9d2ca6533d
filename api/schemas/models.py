"""Models of the catalogue in OpenAI's shape; all but its four fields are ours."""

from typing import Any, Literal

from api.schemas.common import Reply, seconds
from jobs.identity import Identity
from jobs.models import Model
from jobs.service.catalogue import READY, NamedCheckpoint


class ModelReply(Reply):
    """`facts` is what an inspection found; `error` why it could not."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    status: str
    kind: Literal["base", "tuned", "checkpoint"]
    job: str | None
    revision: str | None
    facts: dict[str, Any] | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, model: Model | NamedCheckpoint, identity: Identity) -> "ModelReply":
        """As the asker sees it: jobs of another project do not exist."""
        if isinstance(model, NamedCheckpoint):
            return cls._of_checkpoint(model, identity)
        return cls(
            id=model.name,
            created=seconds(model.created_at),
            owned_by=model.owned_by,
            status=model.status,
            kind="base" if model.project_id is None else "tuned",
            job=model.job_id if model.project_id == identity.project_id else None,
            revision=model.revision,
            facts=model.facts,
            error=model.error,
        )

    @classmethod
    def _of_checkpoint(cls, named: NamedCheckpoint, identity: Identity) -> "ModelReply":
        return cls(
            id=named.name,
            created=seconds(named.checkpoint.created_at),
            owned_by=identity.organization,  # nobody outside of it can see the checkpoint
            status=READY,
            kind="checkpoint",
            job=named.job.id if named.job.project_id == identity.project_id else None,
            revision=None,
            facts=None,
            error=None,
        )
