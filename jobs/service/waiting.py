"""Where a queued job stands, and what it waits for, in words for its owner.

Asked for whole pages at once: the number of queries depends on how many pools a page shows and
how far apart its jobs stand, not on the length of the queue.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sqlalchemy import and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Job, Run, Worker
from jobs.repository import jobs_ahead
from jobs.service.claims import CPU, GPU
from jobs.states import JobStatus

_SEEN_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """How many queued jobs come first when no owner has anything running, and why not now."""

    position: int
    reason: str


@dataclass(frozen=True)
class _Host:
    """A worker that was seen lately."""

    id: str
    gpus: int
    provides: frozenset[str]

    def offers(self, job: Job) -> bool:
        return set(filter(None, job.requires.split(","))) <= self.provides

    def fits(self, job: Job) -> bool:
        """As a claim sees it: a host with GPUs runs nothing beside them."""
        return job.gpus is None or min(1, self.gpus) <= job.gpus <= self.gpus

    def is_free(self, job: Job, taken: Mapping[str, int]) -> bool:
        needed = min(1, self.gpus) if job.gpus is None else job.gpus
        return max(1, self.gpus) - taken.get(self.id, 0) >= max(1, needed)


def places(session: Session, jobs: Iterable[Job]) -> dict[str, Place]:
    """The places of those of `jobs` that are queued, by their ids."""
    queued = [job for job in jobs if job.status == JobStatus.QUEUED]
    if not queued:
        return {}
    ahead = _positions(session, queued)
    hosts = _hosts(session, {job.pool for job in queued})
    held = _held(session, [job.id for job in queued if job.attempt > 0])
    first = {host for job in queued if not ahead[job.id] for host in hosts.get(job.pool, ())}
    taken = _taken(session, first)
    found = {}
    for job in queued:
        reason = (
            _impossible(job, hosts.get(job.pool, []))
            or _held_in_words(held.get(job.id))
            or _in_turn(job, ahead[job.id], hosts[job.pool], taken)
        )
        found[job.id] = Place(ahead[job.id], reason)
    return found


def _impossible(job: Job, hosts: Sequence[_Host]) -> str | None:
    """Why no amount of waiting helps as things are."""
    if not hosts:
        return f"no worker of pool {job.pool} has been seen in the last minute"
    able = [host for host in hosts if host.offers(job)]
    if not able:
        return f"no worker of pool {job.pool} offers {job.requires.replace(',', ' and ')}"
    if not any(host.fits(job) for host in able):
        wanted = _gpus_in_words(job.gpus) if job.gpus else "runs jobs without a GPU"
        return f"no worker of pool {job.pool} {'has ' if job.gpus else ''}{wanted}"
    return None


def _held_in_words(worker: str | None) -> str | None:
    return None if worker is None else f"its last run is still being ended on {worker}"


def _in_turn(job: Job, ahead: int, hosts: Sequence[_Host], taken: Mapping[str, int]) -> str:
    if ahead:
        return f"{ahead} ahead in pool {job.pool}"
    able = [host for host in hosts if host.offers(job) and host.fits(job)]
    if any(host.is_free(job, taken) for host in able):
        return f"next in pool {job.pool}: about to start"
    on_gpus = all(host.gpus for host in able)
    return f"next in pool {job.pool}: waiting for " + (
        _gpus_in_words(job.gpus or 1) if on_gpus else "a free slot"
    )


def _gpus_in_words(count: int | None) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _positions(session: Session, queued: Iterable[Job]) -> dict[str, int]:
    """Counted from each job to the next: neighbours on a page are mostly so in the queue, too."""
    found: dict[str, int] = {}
    in_order = sorted(queued, key=lambda job: (job.pool, -job.priority, job.queued_at, job.id))
    for _, group in groupby(in_order, key=attrgetter("pool", "priority")):
        last = None
        position = 0
        for job in group:
            if last is None:
                position = jobs_ahead(session, job)
            else:
                position += _between(session, last, job)
            found[job.id], last = position, job
    return found


def _between(session: Session, first: Job, last: Job) -> int:
    values = {
        "pool": first.pool,
        "priority": first.priority,
        "from_at": first.queued_at,
        "from_id": first.id,
        "to_at": last.queued_at,
        "to_id": last.id,
    }
    return session.scalar(_BETWEEN, values) or 0


def _hosts(session: Session, pools: set[str]) -> dict[str, list[_Host]]:
    rows = session.execute(_SEEN, {"pools": sorted(pools), "since": now(session) - _SEEN_SECONDS})
    found: dict[str, list[_Host]] = {}
    for row in rows:
        provides = frozenset(filter(None, row.provides.split(",")))
        found.setdefault(row.pool, []).append(_Host(row.id, row.gpus, provides))
    return found


def _held(session: Session, job_ids: list[str]) -> dict[str, str]:
    """The workers on which earlier runs of these jobs are still open."""
    if not job_ids:
        return {}
    rows = session.execute(_HELD, {"job_ids": job_ids})
    return {row.job_id: row.worker_id for row in rows}


def _taken(session: Session, hosts: Iterable[_Host]) -> dict[str, int]:
    """How many slots of these workers are in use; of a host with GPUs its CPU is none."""
    kinds = {host.id: GPU if host.gpus else CPU for host in hosts}
    if not kinds:
        return {}
    found: dict[str, int] = {}
    for row in session.execute(_TAKEN, {"worker_ids": list(kinds)}):
        if row.slot == kinds[row.worker_id]:
            found[row.worker_id] = found.get(row.worker_id, 0) + max(1, len(row.gpu_indices))
    return found


# Built once: every look at a queued job asks these.
_BETWEEN = select(func.count()).where(
    Job.status == JobStatus.QUEUED,
    Job.pool == bindparam("pool"),
    Job.priority == bindparam("priority"),
    Job.queued_at.between(bindparam("from_at"), bindparam("to_at")),
    or_(
        Job.queued_at > bindparam("from_at"),
        Job.id >= bindparam("from_id"),
    ),
    or_(
        Job.queued_at < bindparam("to_at"),
        Job.id < bindparam("to_id"),
    ),
)
_SEEN = select(Worker.id, Worker.pool, Worker.gpus, Worker.provides).where(
    Worker.pool.in_(bindparam("pools", expanding=True)), Worker.seen_at > bindparam("since")
)
_HELD = select(Run.job_id, Run.worker_id).where(
    Run.job_id.in_(bindparam("job_ids", expanding=True)), Run.ended_at.is_(None)
)
_TAKEN = select(Run.worker_id, Run.slot, Run.gpu_indices).where(
    and_(
        Run.ended_at.is_(None),
        Run.slots_freed_at.is_(None),
        Run.slot.in_((GPU, CPU)),
    ),
    Run.worker_id.in_(bindparam("worker_ids", expanding=True)),
)
