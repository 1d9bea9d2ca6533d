"""A deployment that has been busy for months: bulk copies of a few jobs made by the real verbs.

Whatever rows the verbs leave for one job (events, runs, files, checkpoints, results …) is copied
with new ids and other times, so the crowd looks like what the service itself writes.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import (
    Connection,
    String,
    Table,
    create_engine,
    insert,
    or_,
    select,
    text,
)

from benchmarks.serving import Server
from jobs.database import Database
from jobs.models import ApiKey, Base, Creation, Job, JobMetadata, Run, new_id, table_of
from jobs.service import claims, endings, records
from jobs.service.creations import KEPT_SECONDS
from jobs.service.endings import Ending, StoredArtifact
from jobs.service.records import Fence
from jobs.settings import Settings
from jobs.states import RunOutcome
from training.events import CheckpointSaved, Event, Failure, Message, Metrics, Progress
from training.run_directory import FileEntry, Manifest

_JOBS = "/v1/fine_tuning/jobs"
_POOL = "template"
_STEPS = (10, 20, 30, 40)
_BATCH_JOBS = 1000
_SPAN_SECONDS = 90 * 86400
_QUEUE_SECONDS = 86400
_RARE = 1000
"""Every so manieth job has the rare value of its metadata."""
_OWNERS = 20
_TEAMS = 50
_FAILURE = Failure(
    code="host_out_of_memory", message="killed", fault="resources", remedy="take a smaller batch"
)
_HASH = "5eed" * 16
_ID_CHARS = 24


@dataclass(frozen=True)
class Pattern:
    """The rows of one job, table by table in the order of their foreign keys."""

    job: dict[str, Any]
    rows: list[tuple[Table, list[dict[str, Any]]]]


def patterns(
    server: Server, settings: Settings, body: dict[str, object]
) -> tuple[Pattern, list[Pattern]]:
    """A job that waits, and some that have ended in different ways."""
    db = Database(settings.resolved_database_url)
    ended = [
        _ended(server, db, settings, body, outcome)
        for outcome in (RunOutcome.SUCCEEDED, RunOutcome.SUCCEEDED, RunOutcome.FAILED)
    ]
    cancelled = _create(server, body)
    server.call(server.connect(), "POST", f"{_JOBS}/{cancelled}/cancel")
    waiting = _create(server, body)
    with db.reading() as session:
        connection = session.connection()
        found = [_pattern(connection, job_id) for job_id in [waiting, *ended, cancelled]]
    db.close()
    return found[0], found[1:]


def _create(server: Server, body: dict[str, object]) -> str:
    pooled = body | {"resources": {"pool": _POOL}}
    return str(server.reply(server.connect(), "POST", _JOBS, pooled)["id"])


def _ended(
    server: Server,
    db: Database,
    settings: Settings,
    body: dict[str, object],
    outcome: RunOutcome,
) -> str:
    """A job that was claimed, said what a short training says, and ended."""
    job_id = _create(server, body)
    offer = claims.Offer("crowd", _POOL, 0, frozenset())
    with db.claiming() as session:
        claimed = claims.claim(session, offer, settings)
    assert claimed is not None
    fence = Fence(claimed.run_id, claimed.lease_token)
    said: list[Event] = [Message(message="Training has begun"), Progress(phase="training", step=1)]
    said += [Metrics(step=step, metrics={"train_loss": 2.0 / step}) for step in _STEPS]
    prefix = f"jobs/{job_id}/attempt-1"
    with db.writing() as session:
        records.record(session, fence, said, relayed_bytes=1, settings=settings)
        records.record_log(session, fence, "loading the model\n" * 20, log_bytes=360)
        records.record_checkpoint(
            session,
            fence,
            CheckpointSaved(
                step=_STEPS[-1], name="checkpoint", bytes=3000, metrics={"train_loss": 0.1}
            ),
            key_prefix=f"{prefix}/checkpoint-{_STEPS[-1]}",
            manifest=Manifest(
                files=tuple(
                    FileEntry(path=name, bytes=1000, sha256=_HASH)
                    for name in ("adapter_config.json", "adapter_model.safetensors", "state.pt")
                ),
                step=_STEPS[-1],
                attempt=1,
            ),
        )
    names = ("adapter.zip", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    stored = tuple(StoredArtifact(name, f"{prefix}/{name}", 1000, _HASH) for name in names)
    failure = _FAILURE if outcome == RunOutcome.FAILED else None
    with db.writing() as session:
        ending = Ending(outcome, failure, trained_tokens=1000, artifacts=stored)
        endings.finish(session, fence, ending, settings)
    return job_id


def _pattern(connection: Connection, job_id: str) -> Pattern:
    rows = []
    for table in Base.metadata.sorted_tables:
        columns = [column for column in table.columns if type(column.type) is String]
        query = select(table).where(or_(*(column == job_id for column in columns)))
        found = [dict(row._mapping) for row in connection.execute(query)]
        if found:
            rows.append((table, found))
    (job,) = next(found for table, found in rows if table is table_of(Job))
    return Pattern(job, rows)


class Crowd:
    """Copies of patterns, spread over owners, priorities, pools, metadata and time."""

    def __init__(self, settings: Settings, seed: int = 1) -> None:
        self._engine = create_engine(settings.resolved_database_url)
        self._random = random.Random(seed)
        self._owners: list[str] = []
        self.job_ids: list[str] = []
        """Oldest first."""

    def add(self, waiting: Pattern, num_waiting: int, ended: Sequence[Pattern], num: int) -> None:
        """Copy, in the order in which the jobs were made."""
        self._owners = self._add_owners(waiting.job)
        newest = waiting.job["created_at"]
        times = [newest - _QUEUE_SECONDS - _SPAN_SECONDS * (num - n) / num for n in range(num)]
        self._add(self._copy(ended[n % len(ended)], at, n) for n, at in enumerate(times))
        pause = _QUEUE_SECONDS / num_waiting
        times = [newest - pause * (num_waiting - n) for n in range(num_waiting)]
        self._add(self._copy(waiting, at, n) for n, at in enumerate(times))
        if self._engine.dialect.name == "postgresql":
            # As autovacuum does by itself within minutes; SQLite has no such habit.
            with self._engine.execution_options(
                isolation_level="AUTOCOMMIT"
            ).connect() as connection:
                connection.execute(text("VACUUM ANALYZE"))
        self._engine.dispose()

    def _add_owners(self, job: dict[str, Any]) -> list[str]:
        """Keys of the same project, beside the one that made the patterns."""
        key = table_of(ApiKey)
        with self._engine.begin() as connection:
            query = select(key).where(key.c.id == job["created_by"])
            pattern = dict(connection.execute(query).one()._mapping)
            rows = [
                pattern | {"id": new_id("key_"), "sha256": new_id(""), "name": f"owner {n}"}
                for n in range(_OWNERS)
            ]
            connection.execute(insert(key), rows)
        return [row["id"] for row in rows]

    def _add(self, copies: Iterator[list[tuple[Table, list[dict[str, Any]]]]]) -> None:
        while batch := list(islice(copies, _BATCH_JOBS)):
            gathered: dict[Table, list[dict[str, Any]]] = {}
            for copy in batch:
                for table, rows in copy:
                    gathered.setdefault(table, []).extend(rows)
            with self._engine.begin() as connection:
                for table in Base.metadata.sorted_tables:
                    if gathered.get(table):
                        connection.execute(insert(table), gathered[table])

    def _copy(
        self, pattern: Pattern, at: float, number: int
    ) -> list[tuple[Table, list[dict[str, Any]]]]:
        """The pattern's rows, under new ids, as if the job had been made at a time."""
        job_id = new_id("ftjob-")
        self.job_ids.append(job_id)
        names = {
            pattern.job["id"]: job_id,
            pattern.job["fine_tuned_model"]: f"ft:bench:local::{job_id[-16:]}",
        }
        for _, rows in pattern.rows:
            for row in rows:
                if (old := row.get("id")) is not None and old not in names:
                    names[old] = new_id(old[:-_ID_CHARS])
        later = at - pattern.job["created_at"]
        changes = self._changes(pattern, number)
        copied = {
            table: [_renamed(row, names, later) | changes.get(table, {}) for row in rows]
            for table, rows in pattern.rows
        }
        if at < pattern.job["created_at"] - KEPT_SECONDS:
            copied.pop(table_of(Creation), None)  # swept after a day
        copied[table_of(JobMetadata)] = _pairs(*copied[table_of(Job)])
        return list(copied.items())

    def _changes(self, pattern: Pattern, number: int) -> dict[Table, dict[str, Any]]:
        choose = self._random.choice
        metadata = {
            "team": f"team-{number % _TEAMS}",
            "rare": "yes" if number % _RARE == 0 else "no",
        }
        gpus = choose((None, None, 1, 2, 4, 8))
        job = {
            "created_by": choose(self._owners),
            "user_metadata": None if number % 10 == 0 else metadata,
            "pool": choose(("default", "default", "default", "night")),
            "priority": choose((0, 0, 0, 0, -5, 5)),
            "gpus": gpus,
            "requires": "cuda" if gpus else choose(("", "cuda")),
        }
        return {table_of(Job): job, table_of(Run): {"cleaned_at": pattern.job["created_at"]}}


def _pairs(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows by which a job is found by its metadata."""
    shared = {"job_id": job["id"]} | {name: job[name] for name in ("project_id", "created_at")}
    metadata = job["user_metadata"] or {}
    return [shared | {"key": key, "value": value} for key, value in metadata.items()]


def _renamed(row: dict[str, Any], names: dict[str, str], later: float) -> dict[str, Any]:
    """A row with its ids replaced where they are whole values, and its times moved."""
    return {
        key: names.get(value, value)
        if isinstance(value, str)
        else value + later
        if key.endswith("_at") and value is not None
        else value
        for key, value in row.items()
    }
