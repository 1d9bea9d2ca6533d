"""The HTTP application: its parts are made when it starts and closed when it stops.

Start it with `api.server`, or with any ASGI server: `uvicorn --factory api.app:create_app`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from api import documentation, errors
from api.auth import Keyring
from api.courier import Courier
from api.edge import Edge
from api.intake import Intake
from api.replies import Receipts, ReplyWatch
from api.routes import (
    adapters,
    api_keys,
    control,
    events,
    exports,
    files,
    health,
    jobs,
    models,
    permissions,
    specs,
    uploads,
    webhooks,
)
from api.services import Services
from api.streams import Streams
from api.turns import Turns
from jobs.artifacts.registry import open_store
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.rescue import Rescue
from jobs.settings import Settings, read_settings

_ROUTERS = (
    files,
    uploads,
    jobs,
    control,
    specs,
    events,
    adapters,
    exports,
    models,
    permissions,
    webhooks,
    api_keys,
    health,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application over a database whose schema is at its head.

    Args:
        settings: None: read from the environment.
    """
    settings = settings or read_settings()
    app = FastAPI(
        title="Tunesmith",
        version=version("tunesmith"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lambda app: _lifespan(app, settings),
        redirect_slashes=False,
    )
    app.add_middleware(ReplyWatch)
    app.add_middleware(Edge, allowed_hosts=settings.allowed_hosts)
    errors.install(app)
    for module in _ROUTERS:
        app.include_router(module.router)
    documentation.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    db = Database(settings.resolved_database_url)
    store = open_store(settings)
    bell = Bell(settings)
    streams = Streams(db, settings.max_streams)
    receipts = Receipts(db)
    courier = Courier(db, settings)
    rescue = Rescue(db, settings, bell, store)
    app.state.services = Services(
        settings=settings,
        db=db,
        store=store,
        bell=bell,
        keyring=Keyring(db),
        streams=streams,
        turns=Turns(),
        receipts=receipts,
        courier=courier,
        intake=Intake(settings, store),
    )
    rescue.start()
    courier.start()
    reader = asyncio.create_task(streams.read())
    try:
        yield
    finally:
        streams.close()
        await reader
        rescue.stop()
        courier.close()
        receipts.close()
        bell.close()
        db.close()
