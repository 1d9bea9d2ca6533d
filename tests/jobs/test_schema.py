"""The migrations make the tables of the models, there and back, on both databases."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, inspect

from jobs.database import Database
from jobs.lists import jobs_page
from jobs.models import Base
from jobs.schema import alembic_config, upgrade
from tests.jobs.conftest import new_postgres_database
from tests.jobs.world import World, settings_in

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return new_postgres_database(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'new.db'}"


def _tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_from_nothing_to_the_models_and_back(empty_url: str):
    upgrade(empty_url)
    assert _tables(empty_url) == {*Base.metadata.tables, "alembic_version"}
    command.check(alembic_config(empty_url))
    upgrade(empty_url)
    command.downgrade(alembic_config(empty_url), "base")
    assert _tables(empty_url) == {"alembic_version"}
    upgrade(empty_url)
    command.check(alembic_config(empty_url))


def test_what_jobs_of_before_are_found_by(empty_url: str, tmp_path: Path):
    upgrade(empty_url)
    database = Database(empty_url)
    world = World(database, settings_in(tmp_path, database_url=empty_url))
    world.model()
    file_id = world.file().id
    wanted = world.submit(training_file=file_id, metadata={"team": "blue", "n": "1"})
    impatient = world.submit(training_file=file_id, limits={"max_pending_seconds": 60})
    command.downgrade(alembic_config(empty_url), "0001")
    upgrade(empty_url)
    with database.reading() as session:
        for metadata in ({"team": "blue"}, {"n": "1", "team": "blue"}):
            page = jobs_page(session, world.me, after=None, limit=9, metadata=metadata)
            assert [job.id for job in page.items] == [wanted.id]
    assert world.job(impatient.id).max_pending_seconds == 60
    assert world.job(wanted.id).max_pending_seconds is None
    database.close()


@pytest.mark.postgres
def test_two_upgrades_at_once(postgres_url: str):
    url = new_postgres_database(postgres_url)
    environment = {"TUNESMITH_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}

    def run(_: int) -> "subprocess.CompletedProcess[str]":
        program = [sys.executable, "-m", "jobs.schema"]
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(run, range(3)))
    assert [result.returncode for result in results] == [0, 0, 0], results
    command.check(alembic_config(url))


def test_a_password_with_special_characters(tmp_path: Path):
    config = alembic_config("postgresql://user:50%25%40@host/db")
    assert config.get_main_option("sqlalchemy.url") == "postgresql://user:50%25%40@host/db"


def test_sqlite_has_its_log_before_others_come(tmp_path: Path):
    """Of several that switch a file to it at once, one may fail."""
    upgrade(f"sqlite:///{tmp_path / 'tunesmith.db'}")
    with closing(sqlite3.connect(tmp_path / "tunesmith.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
