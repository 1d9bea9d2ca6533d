"""Who else may use a tuned model or a checkpoint; kept by the admins of the project that owns it.

Names hold `/` and `:`, so they are taken as what lies between.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from api.auth import Caller
from api.documentation import problems
from api.parameters import After, Limit
from api.routing import ApiRoute
from api.schemas.common import CursorListing, Deleted
from api.schemas.permissions import PermissionReply, PermissionRequest
from api.services import Provided
from jobs.pages import Span
from jobs.service import permissions

router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions",
    tags=["Fine-tuning"],
    route_class=ApiRoute,
)


async def _span(
    after: After = None,
    limit: Limit = 10,
    order: Literal["ascending", "descending"] = "descending",
) -> Span:
    return Span(after, limit, descending=order == "descending")


@router.post("", responses=problems(404, 413, 415))
def create_permissions(
    checkpoint: str, body: PermissionRequest, services: Provided, caller: Caller
) -> CursorListing[PermissionReply]:
    """Let other projects of the organisation use a model by its name."""
    with services.db.writing() as session:
        made = permissions.create(session, caller, checkpoint, body.project_ids)
        return CursorListing.of([PermissionReply.of(each) for each in made], has_more=False)


@router.get("", responses=problems(404))
def list_permissions(
    checkpoint: str,
    services: Provided,
    caller: Caller,
    span: Annotated[Span, Depends(_span)],
    project_id: Annotated[str | None, Query(description="Of this project only.")] = None,
) -> CursorListing[PermissionReply]:
    """The projects that may use it, newest permission first."""
    with services.db.reading() as session:
        page = permissions.list_permissions(
            session, caller, checkpoint, span, project_id=project_id
        )
    data = [PermissionReply.of(permission) for permission in page.items]
    return CursorListing.of(data, has_more=page.has_more)


@router.delete("/{permission_id}", responses=problems(404))
def delete_permission(
    checkpoint: str, permission_id: str, services: Provided, caller: Caller
) -> Deleted:
    """Take a permission back."""
    with services.db.writing() as session:
        gone = permissions.delete(session, caller, checkpoint, permission_id)
    return Deleted(id=gone.id, object="checkpoint.permission")
