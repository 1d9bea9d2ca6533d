"""Models of the catalogue in OpenAI's shape; all but its four fields are ours."""

from typing import Any, Literal

from api.schemas.common import Reply, seconds
from jobs.models import Model


class ModelReply(Reply):
    """`facts` is what an inspection found; `error` why it could not."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    status: str
    kind: Literal["base", "tuned"]
    job: str | None
    revision: str | None
    facts: dict[str, Any] | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, model: Model) -> "ModelReply":
        return cls(
            id=model.name,
            created=seconds(model.created_at),
            owned_by=model.owned_by,
            status=model.status,
            kind="base" if model.project_id is None else "tuned",
            job=model.job_id,
            revision=model.revision,
            facts=model.facts,
            error=model.error,
        )
