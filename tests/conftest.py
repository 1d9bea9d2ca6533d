"""Servers that tests share: each is started once, by the first test that asks for it."""

from collections.abc import Iterator

import pytest

from tests.servers import RedisServer, postgres_server, redis_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server's URL; its one database is there to make others from."""
    with postgres_server() as url:
        yield url


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server
