"""Permissions of checkpoints in OpenAI's shape."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.common import Identified, seconds
from jobs.models import CheckpointPermission
from training.section import Section, Text


class PermissionRequest(Section):
    """The projects that may use the model."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"project_ids": ["proj_5f2c7a90b1d84e3f6a1c2b3d"]}]}
    )

    project_ids: Annotated[list[Text], Field(min_length=1, max_length=100)]


class PermissionReply(Identified):
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str

    @classmethod
    def of(cls, permission: CheckpointPermission) -> "PermissionReply":
        return cls(
            id=permission.id,
            created_at=seconds(permission.created_at),
            project_id=permission.project_id,
        )
