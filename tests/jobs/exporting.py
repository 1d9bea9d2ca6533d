"""Exports in a deployment without processes, by the verbs of their owner and of a run."""

from typing import Any

from jobs.identity import Identity
from jobs.models import Export, Job
from jobs.requests import ExportRequest
from jobs.service import claims, exports
from jobs.service.claims import Claim, ExportAssignment
from jobs.service.endings import Ending
from jobs.service.export_runs import ExportPlan, Made
from jobs.states import ExportStatus, RunKind, RunOutcome
from tests.jobs.world import FAILURE, World, offer
from training.export_spec import Pushed

FILE = b"a merged model"
PUSHED = Pushed(repo_id="acme/x", revision="main", commit="c0ffee", url="https://hub/acme/x")


class Desk:
    """One job of a world, and what is exported of it."""

    def __init__(self, world: World, *, succeeded: bool = True, **body: Any) -> None:
        self.world = world
        self.job: Job = world.submit(training_file=world.file().id, **body)
        claimed = world.claim(offer("trainer"))
        assert claimed is not None
        self.training: Claim = claimed
        if succeeded:
            self.succeed()

    def succeed(self) -> None:
        self.world.finish(self.training, RunOutcome.SUCCEEDED)

    def ask(self, kind: str = "merged", identity: Identity | None = None, **body: Any) -> Export:
        request = ExportRequest.model_validate({"kind": kind, **body})
        me, settings = identity or self.world.me, self.world.settings
        with self.world.db.writing() as session:
            return exports.request(session, me, self.job.id, request, settings).export

    def do(self, verb: str, export: Export, identity: Identity | None = None) -> Any:
        """`cancel`, `delete`, `get` or `content`."""
        with self.world.db.writing() as session:
            me = identity or self.world.me
            return getattr(exports, verb)(session, me, self.job.id, export.id)

    def now(self, export: Export) -> Export:
        with self.world.db.reading() as session:
            return session.get_one(Export, export.id)

    def claim(self, name: str = "w1", **offered: Any) -> Claim:
        claimed = self.world.claim(offer(name, **offered))
        assert claimed is not None
        assert claimed.kind == RunKind.EXPORT
        return claimed

    def plan(self, claimed: Claim) -> ExportPlan:
        with self.world.db.reading() as session:
            assignment = claims.assignment(session, claimed)
        assert isinstance(assignment, ExportAssignment)
        return assignment.plan

    def store(self, claimed: Claim, name: str = "merged.zip") -> Made:
        key = f"exports/{claimed.export_id}/attempt-{claimed.attempt}/{name}"
        with self.world.store.create(key) as writer:
            writer.write(FILE)
            stored = writer.commit()
        return Made(stored.key, name, stored.bytes, stored.sha256)

    def finish(
        self, claimed: Claim, outcome: RunOutcome = RunOutcome.SUCCEEDED, made: Made | None = None
    ) -> ExportStatus | None:
        if outcome == RunOutcome.SUCCEEDED:
            ending = Ending(outcome, made=made or self.store(claimed))
        else:
            ending = Ending(outcome, FAILURE)
        return self.world.finish(claimed, ending)  # type: ignore[return-value]
