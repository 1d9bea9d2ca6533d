"""A deployment without processes: a database, a store, a key, a model and a file, by the verbs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from jobs.artifacts.local import LocalStore
from jobs.database import Database, now
from jobs.identity import Identity
from jobs.models import File, Job, Model, Organization, Project, Run, new_id
from jobs.requests import JobRequest, ModelRequest
from jobs.service import catalogue, claims, control, endings, files, keys, records, submission
from jobs.service.claims import Claim, Offer
from jobs.service.endings import Ending, StoredArtifact
from jobs.service.records import Fence
from jobs.settings import Settings
from jobs.states import JobStatus, RunOutcome
from training.data_config import ContainerName
from training.events import CheckpointSaved, Failure
from training.facts import ModelFacts
from training.file_check import FileChecker
from training.run_directory import Manifest

CHAT_ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
INSTRUCT_ROW = {"instruction": "Say b", "output": "b"}
FACTS = ModelFacts(
    architecture="LlamaForCausalLM",
    model_type="llama",
    num_parameters=1000,
    context_length=128,
    vocab_size=100,
    linear_modules=("q_proj", "v_proj"),
    module_names=("embed_tokens", "lm_head", "q_proj", "v_proj"),
    tie_word_embeddings=True,
    has_chat_template=True,
    bytes=4000,
    sha256="5eed",
)
FAILURE = Failure(code="bad", message="it went wrong", fault="data", param=None, remedy="mend it")
VERBS = {
    "pause": control.pause,
    "resume": control.resume,
    "stop": control.stop,
    "cancel": control.cancel,
}
ARTIFACT = StoredArtifact("adapter.zip", "jobs/any/adapter.zip", 3, "abc")


def settings_in(folder: Path, **changes: Any) -> Settings:
    return Settings(**({"data_dir": folder} | changes))


def offer(name: str = "w1", *, pool: str = "default", gpus: int = 0, provides: str = "") -> Offer:
    return Offer(name, pool, gpus, frozenset(provides.split(",") if provides else ()))


def fence_of(claim: Claim) -> Fence:
    return Fence(claim.run_id, claim.lease_token)


class World:
    """The verbs, each in its own transaction, as routes and worker steps call them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.db = database
        self.settings = settings
        self.store = LocalStore(settings.artifacts_folder)
        with database.writing() as session:
            secret = keys.bootstrap(session, settings)
            assert secret is not None
        self.secret = secret
        with database.reading() as session:
            self.me = keys.authenticate(session, secret)

    def member(self, name: str = "member") -> Identity:
        with self.db.writing() as session:
            _, secret = keys.create(session, self.me, name=name, role="member")
        with self.db.reading() as session:
            return keys.authenticate(session, secret)

    def stranger(self) -> Identity:
        """An admin of another organisation's project."""
        with self.db.writing() as session:
            at = now(session)
            organization = Organization(id=new_id("org-"), name="other", created_at=at)
            session.add(organization)
            session.flush()
            project = Project(
                id=new_id("proj_"), organization_id=organization.id, name="p", created_at=at
            )
            session.add(project)
            session.flush()
            host = Identity("none", project.id, "other", "admin")
            key, _ = keys.create(session, host, name="stranger", role="admin")
            return Identity(key.id, project.id, "other", "admin")

    def model(self, name: str = "tiny", facts: ModelFacts = FACTS) -> Model:
        """A base model, ready."""
        with self.db.writing() as session:
            request = ModelRequest(name=name, source="/models/tiny")
            model = catalogue.add(session, self.me, request)
        claimed = self.claim(offer("inspector"))
        assert claimed is not None
        assert claimed.model_id == model.id
        self.finish(claimed, Ending(RunOutcome.SUCCEEDED, facts=facts))
        with self.db.reading() as session:
            return catalogue.get(session, self.me, name)

    def file(
        self,
        rows: Sequence[object] = (CHAT_ROW,),
        *,
        purpose: str = "fine-tune",
        identity: Identity | None = None,
    ) -> File:
        """An upload; a row that is a string is a line as it stands."""
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        content = "\n".join(lines).encode()
        file_id = new_id("file-")
        with self.store.create(files.artifact_key(file_id)) as writer:
            writer.write(content)
            stored = writer.commit()
        report = None
        if purpose == "fine-tune":
            checker = FileChecker()
            checker.feed(content)
            report = checker.finish()
        stored_file = files.StoredFile(
            id=file_id,
            filename="rows.jsonl",
            purpose=purpose,
            bytes=stored.bytes,
            sha256=hashlib.sha256(content).hexdigest(),
            artifact_key=stored.key,
            report=report,
        )
        with self.db.writing() as session:
            return files.add(session, identity or self.me, stored_file)

    def unchecked(self, container: ContainerName = "csv") -> File:
        """An upload that waits for a worker to check it."""
        file_id = new_id("file-")
        with self.store.create(files.artifact_key(file_id)) as writer:
            writer.write(b"prompt,completion\na,b\n")
            stored = writer.commit()
        stored_file = files.StoredFile(
            id=file_id,
            filename=f"rows.{container}",
            purpose="fine-tune",
            bytes=stored.bytes,
            sha256=stored.sha256,
            artifact_key=stored.key,
            container=container,
        )
        with self.db.writing() as session:
            return files.add(session, self.me, stored_file)

    def submit(self, *, identity: Identity | None = None, **body: Any) -> Job:
        request = JobRequest.model_validate({"model": "tiny"} | body)
        with self.db.writing() as session:
            return submission.submit(session, identity or self.me, request)

    def claim(self, offered: Offer) -> Claim | None:
        with self.db.claiming() as session:
            return claims.claim(session, offered, self.settings)

    def finish(self, claimed: Claim, ending: Ending | RunOutcome) -> JobStatus | None:
        if isinstance(ending, RunOutcome):
            failure = FAILURE if ending == RunOutcome.FAILED else None
            ending = Ending(ending, failure, artifacts=(ARTIFACT,))
        with self.db.writing() as session:
            return endings.finish(session, fence_of(claimed), ending, self.settings)

    def ask(self, verb: str, job: Job, identity: Identity | None = None) -> Job:
        with self.db.writing() as session:
            return VERBS[verb](session, identity or self.me, job.id)

    def cancel(self, job: Job) -> Job:
        return self.ask("cancel", job)

    def note_checkpoint(self, claimed: Claim, step: int = 3) -> None:
        """Make a checkpoint exist, without its files."""
        with self.db.writing() as session:
            records.record_checkpoint(
                session,
                fence_of(claimed),
                CheckpointSaved(step=step, name=f"checkpoint-{step}", bytes=0),
                key_prefix=f"jobs/{claimed.job_id}/attempt-{claimed.attempt}/checkpoint-{step}",
                manifest=Manifest(files=()),
            )

    def lose(self, claimed: Claim) -> bool:
        """What rescue does to a run whose lease has expired."""
        with self.db.writing() as session:
            expires_at = session.get_one(Run, claimed.run_id).lease_expires_at
            return endings.close_expired(session, claimed.run_id, expires_at, self.settings)

    def job(self, job_id: str) -> Job:
        with self.db.reading() as session:
            return session.get_one(Job, job_id)

    def run(self, run_id: str) -> Run:
        with self.db.reading() as session:
            return session.get_one(Run, run_id)

    def all(self, model: type[Any]) -> list[Any]:
        with self.db.reading() as session:
            return list(session.scalars(select(model)))

    def change(self, model: type[Any], row_id: str, **values: Any) -> None:
        """Change a row behind the verbs' back, as time or an accident would."""
        with self.db.writing() as session:
            session.execute(update(model).where(model.id == row_id).values(values))
