"""What one API process holds for its lifetime, and how a route gets at it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.auth import Keyring
from api.courier import Courier
from api.intake import Intake
from api.replies import Receipts
from api.streams import Streams
from api.turns import Turns
from jobs.artifacts.base import ArtifactStore
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.settings import Settings


@dataclass(frozen=True)
class Services:
    """The parts a route may use; all of them are safe to use from several threads."""

    settings: Settings
    db: Database
    store: ArtifactStore
    bell: Bell
    keyring: Keyring
    streams: Streams
    turns: Turns
    receipts: Receipts
    courier: Courier
    intake: Intake


def services_of(request: Request) -> Services:
    """The services of the application that answers `request`."""
    services: Services = request.app.state.services
    return services


async def _provide(request: Request) -> Services:
    return services_of(request)


Provided = Annotated[Services, Depends(_provide)]
