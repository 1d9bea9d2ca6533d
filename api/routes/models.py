"""The catalogue: base models that admins keep, what was tuned of them, and checkpoints by name.

Names hold `/` and `:`, so they are taken as the rest of the path.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body

from api.auth import Caller
from api.documentation import problems
from api.routing import ApiRoute
from api.schemas.common import Deleted, Listing
from api.schemas.models import ModelReply
from api.services import Provided
from jobs.requests import ModelRequest
from jobs.service import catalogue

router = APIRouter(prefix="/v1/models", tags=["Models"], route_class=ApiRoute)

_EXAMPLES: dict[str, Any] = {
    "folder": {
        "summary": "A folder that every worker has",
        "value": {"name": "smollm2-135m-instruct", "source": "/srv/models/smollm2-135m-instruct"},
    },
    "hub": {
        "summary": "A pinned model of the hub, fetched once by the worker",
        "value": {
            "name": "smollm2-1.7b",
            "source": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            "revision": "0123456789abcdef0123456789abcdef01234567",
        },
    },
}


@router.get("", responses=problems())
def list_models(services: Provided, caller: Caller) -> Listing[ModelReply]:
    """Every model the project can see, newest first, in one piece."""
    with services.db.reading() as session:
        models = catalogue.list_models(session, caller)
    return Listing(data=[ModelReply.of(model, caller) for model in models])


@router.post("", responses=problems(413, 415))
def add_model(
    body: Annotated[ModelRequest, Body(openapi_examples=_EXAMPLES)],
    services: Provided,
    caller: Caller,
) -> ModelReply:
    """Add a base model; it is `pending` until a worker has read it."""
    with services.db.writing() as session:
        model = catalogue.add(session, caller, body)
    services.bell.ring(services.settings.worker_pool)
    return ModelReply.of(model, caller)


@router.get("/{model:path}", responses=problems(404))
def retrieve_model(model: str, services: Provided, caller: Caller) -> ModelReply:
    with services.db.reading() as session:
        return ModelReply.of(catalogue.get(session, caller, model), caller)


@router.delete("/{model:path}", responses=problems(404, 409))
def delete_model(model: str, services: Provided, caller: Caller) -> Deleted:
    """Take a model out of the catalogue; the adapter of its job stays where it is."""
    with services.db.writing() as session:
        catalogue.remove(session, caller, model)
    return Deleted(id=model, object="model")
