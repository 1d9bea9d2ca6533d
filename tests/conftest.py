"""Servers that tests share: each is started once, by the first test that asks for it."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import RedisServer, postgres_server, redis_server


class _Loggers(dict[str, Any]):
    """pytest walks over all loggers at every test, while a server's threads make new ones."""

    def values(self) -> Any:
        return list(super().values())


logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server's URL; its one database is there to make others from."""
    with postgres_server() as url:
        yield url


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server
