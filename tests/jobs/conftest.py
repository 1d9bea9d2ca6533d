"""Databases for the jobs floor: each test gets its own, copied from one that was migrated once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.database import Database
from jobs.schema import upgrade
from tests.jobs.world import World, settings_in
from tests.servers import new_postgres_database


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "tunesmith.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> str:
    """The URL of a migrated database that `CREATE DATABASE … TEMPLATE` copies."""
    url = new_postgres_database(postgres_url)
    upgrade(url)
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated, empty database: every test that asks for it runs on both kinds."""
    if request.param == "postgres":
        return new_postgres_database(request.getfixturevalue("postgres_template"))
    return _sqlite_copy(request.getfixturevalue("sqlite_template"), tmp_path)


def _sqlite_copy(template: Path, folder: Path) -> str:
    return f"sqlite:///{shutil.copy(template, folder / 'tunesmith.db')}"


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    """A small deployment on either database."""
    yield from _world(database_url, tmp_path)


@pytest.fixture
def local_world(sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    """A small deployment on SQLite, for what no database decides."""
    yield from local_worlds(sqlite_template, tmp_path)


def local_worlds(template: Path, folder: Path) -> Iterator[World]:
    """One deployment on SQLite, for a fixture of any scope."""
    yield from _world(_sqlite_copy(template, folder), folder)


def _world(url: str, folder: Path) -> Iterator[World]:
    database = Database(url)
    yield World(database, settings_in(folder, database_url=url))
    database.close()
