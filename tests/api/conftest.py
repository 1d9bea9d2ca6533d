"""One server for all tests of this folder; every test has projects of its own in it."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.api.deployment import Client, Deployment, serving
from tests.api.receiver import Receiver, receiving
from tests.jobs.world import settings_in


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    settings = settings_in(
        tmp_path_factory.mktemp("api"),
        max_upload_bytes=100_000,
        max_part_bytes=20_000,
        max_line_bytes=10_000,
        max_body_bytes=20_000,
    )
    with serving(settings) as made:
        yield made


@pytest.fixture
def admin(deployment: Deployment) -> Iterator[Client]:
    """The only admin of a new project."""
    client = deployment.project()
    with client.http:
        yield client


@pytest.fixture
def sdk(deployment: Deployment, admin: Client) -> Iterator[OpenAI]:
    """The stock client with the admin's key; it repeats nothing by itself."""
    with OpenAI(base_url=f"{deployment.origin}/v1", api_key=admin.secret, max_retries=0) as client:
        yield client


@pytest.fixture
def member(deployment: Deployment, admin: Client) -> Iterator[Client]:
    """A member of the same project."""
    client = deployment.client(admin.identity.project_id, admin.pool, "member")
    with client.http:
        yield client


@pytest.fixture
def stranger(deployment: Deployment) -> Iterator[Client]:
    """An admin of another project."""
    client = deployment.project()
    with client.http:
        yield client


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose webhooks may go to this host."""
    settings = settings_in(
        tmp_path_factory.mktemp("town"), webhook_allow_private=True, webhook_pause_seconds=0.2
    )
    with serving(settings) as made:
        yield made


@pytest.fixture
def owner(town: Deployment) -> Iterator[Client]:
    client = town.project()
    with client.http:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made
