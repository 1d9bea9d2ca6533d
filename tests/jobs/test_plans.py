"""What is asked all day is answered by an index, on SQLite as it ships: without statistics.

Every statement of a verb is explained. A plan that walks a whole table, or reads rows where the
index holds all that is compared, is slow only once there are many jobs: no other test sees it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from jobs.doorbell import Bell
from jobs.models import Base, Job
from jobs.rescue import Rescue
from jobs.service import jobs, waiting
from tests.jobs.world import World, offer

_SHORT = {"api_keys", "organizations", "projects", "webhook_endpoints", "workers"}
_LONG = Base.metadata.tables.keys() - _SHORT


class Plans:
    """The statements of a block, each with the lines of its plan."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.found: list[tuple[str, list[str]]] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        asked: list[tuple[str, Any]] = []

        def keep(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                asked.append((statement, values[0] if isinstance(values, list) else values))

        event.listen(Engine, "before_cursor_execute", keep)
        try:
            yield
        finally:
            event.remove(Engine, "before_cursor_execute", keep)
        assert asked
        with self._world.db.reading() as session:
            connection = session.connection()
            for statement, values in asked:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                self.found.append((statement, [str(row[3]) for row in rows]))

    def require_indexes(self) -> None:
        """No plan walks a table that grows, but by an index of what is left to do in it."""
        for statement, plan in self.found:
            scans = [line for line in plan if line.startswith("SCAN") and line.split()[1] in _LONG]
            walks = [line for line in scans if "_to_" not in line]
            assert not walks, f"{walks} in {statement}"

    def lines_about(self, words: str) -> list[str]:
        """The plans of the statements that hold these words."""
        return [line for statement, plan in self.found if words in statement for line in plan]


@pytest.fixture
def plans(local_world: World) -> Plans:
    return Plans(local_world)


def _queued(world: World) -> Job:
    world.model()
    file_id = world.file().id
    world.submit(training_file=file_id)
    return world.submit(training_file=file_id, metadata={"team": "blue", "n": "1"})


def test_a_claim_reads_the_queue_from_its_index(local_world: World, plans: Plans) -> None:
    _queued(local_world)
    with plans.gathered():
        assert local_world.claim(offer()) is not None
    plans.require_indexes()
    about = plans.lines_about("ORDER BY jobs.priority DESC")
    walk = "SEARCH jobs USING COVERING INDEX ix_jobs_queue (status=? AND pool=?)"
    assert walk in about
    assert not [line for line in about if line.startswith("SEARCH jobs USING INDEX")]
    assert not [line for line in about if line.startswith("CORRELATED")]


def test_a_place_in_the_queue_is_counted_in_its_index(local_world: World, plans: Plans) -> None:
    job = _queued(local_world)
    with plans.gathered(), local_world.db.reading() as session:
        assert waiting.places(session, [job])[job.id].position == 1
    plans.require_indexes()
    counted = plans.lines_about("count(*)")
    assert any("USING COVERING INDEX ix_jobs_queue" in line for line in counted)


@pytest.mark.parametrize(
    ("metadata", "index"),
    [
        (None, "ix_jobs_project_created"),
        ({}, "ix_jobs_without_metadata"),
        ({"team": "blue"}, "ix_job_metadata_pair"),
        ({"team": "blue", "n": "1"}, "ix_job_metadata_pair"),
    ],
)
@pytest.mark.parametrize("from_cursor", [False, True])
def test_a_page_of_jobs_is_walked_in_order(
    local_world: World,
    plans: Plans,
    metadata: dict[str, str] | None,
    index: str,
    *,
    from_cursor: bool,
) -> None:
    job = _queued(local_world)
    after = job.id if from_cursor else None
    with plans.gathered(), local_world.db.reading() as session:
        jobs.list_jobs(session, local_world.me, after=after, metadata=metadata)
    plans.require_indexes()
    walked = plans.lines_about("ORDER BY")
    assert any(f"INDEX {index} (" in line for line in walked), walked
    assert not [line for line in walked if "TEMP B-TREE" in line], walked


def test_a_sweep_looks_at_what_is_left_to_do(local_world: World, plans: Plans) -> None:
    _queued(local_world)
    bell = Bell(local_world.settings)
    rescue = Rescue(local_world.db, local_world.settings, bell, local_world.store)
    with plans.gathered():
        rescue.sweep()
    bell.close()
    plans.require_indexes()
    used = (line.partition(" INDEX ")[2].split() for line in plans.lines_about(""))
    indexes = {words[0] for words in used if words}
    assert {
        "ix_checkpoints_to_purge",
        "ix_files_to_hide",
        "ix_files_to_purge",
        "ix_jobs_impatient",
        "ix_models_status",
        "ix_runs_to_clean",
    } <= indexes
