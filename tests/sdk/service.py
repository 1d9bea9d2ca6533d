"""The processes that the OpenAI clients talk to: the API on a socket, and a worker beside it.

The worker is real but for the training it starts, so a job ends in a second. Every test has a
project of its own; a job for the pool `nobody` waits for ever.
"""

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from jobs.identity import Identity, Role
from jobs.models import Organization, Project, new_id
from jobs.service import keys
from tests.servers import free_port
from tests.worker.deployment import ROOT, Deployment

_PATIENCE_SECONDS = 30
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Team:
    """A project, and the secret of an admin's key of it."""

    organization_id: str
    organization: str
    project_id: str
    secret: str


class Service(Deployment):
    """A data folder with an API process over it; `url` is what a client is given."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        # A busy machine must not look like a lost worker: these tests are not about that.
        patient = {
            "heartbeat_seconds": 2,
            "lease_seconds": 30,
            "poll_seconds": 0.2,
            "webhook_allow_private": True,
        }
        super().__init__(folder, **{**patient, **overrides})
        self._port = free_port()
        self._origin = f"http://127.0.0.1:{self._port}"
        self._log = folder / "api.log"
        self.api = self._start_api()

    @property
    def url(self) -> str:
        return f"{self._origin}/v1"

    def team(self, organization_id: str | None = None) -> Team:
        """A new project, of a new organisation unless one is named."""
        number = next(_NUMBERS)
        with self.database.writing() as session:
            if organization_id is None:
                organization_id = new_id("org-")
                name = f"team-{number}"
                session.add(Organization(id=organization_id, name=name, created_at=1.0))
                session.flush()
            organization = session.get_one(Organization, organization_id).name
            project = Project(
                id=new_id("proj_"),
                organization_id=organization_id,
                name=f"project-{number}",
                created_at=1.0,
            )
            session.add(project)
            session.flush()
            project_id = project.id
        return Team(organization_id, organization, project_id, self.key(project_id, "admin"))

    def key(self, project_id: str, role: Role) -> str:
        with self.database.writing() as session:
            host = Identity("none", project_id, "any", "admin")
            return keys.create(session, host, name="test", role=role)[1]

    def close(self) -> None:
        self._stop_api()
        super().close()

    def _start_api(self) -> "subprocess.Popen[bytes]":
        values = self.settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        env = {f"TUNESMITH_{key.upper()}": str(value) for key, value in values.items()}
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.server", "--port", str(self._port)],
                cwd=ROOT,
                env={**os.environ, **env},
                stdout=log,
                stderr=log,
            )
        self.wait_until(lambda: self._is_ready() or process.poll() is not None, _PATIENCE_SECONDS)
        assert process.poll() is None, self._log.read_text()
        return process

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._origin}/readyz", verify=False).status_code == 200
        except httpx.TransportError:
            return False

    def _stop_api(self) -> None:
        self.api.terminate()
        self.api.wait(_PATIENCE_SECONDS)
