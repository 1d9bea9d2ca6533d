"""API keys: their secrets appear once, in the reply that made them."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.common import Reply, seconds
from jobs.identity import Role
from jobs.models import ApiKey
from training.section import PLAIN, Section


class KeyRequest(Section):
    """A new key of the asker's own project, or the first one of a new project."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "nightly trainer", "role": "member"}]}
    )

    name: Annotated[str, Field(min_length=1, max_length=100), PLAIN]
    role: Role = "member"
    project: Annotated[str, Field(min_length=1, max_length=100), PLAIN] | None = Field(
        None, description="The name of a project to make; its first key is an admin's."
    )


class KeyReply(Reply):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    role: str
    project_id: str
    created_at: int
    last4: str

    @classmethod
    def of(cls, key: ApiKey) -> "KeyReply":
        return cls(
            id=key.id,
            name=key.name,
            role=key.role,
            project_id=key.project_id,
            created_at=seconds(key.created_at),
            last4=key.last4,
        )


class NewKeyReply(KeyReply):
    secret: str

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str) -> "NewKeyReply":
        return cls(**KeyReply.of(key).model_dump(), secret=secret)
