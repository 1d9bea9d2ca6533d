"""Facts of base models: read in a process of their own, remembered, and compared with pins.

Hashing a model takes long, so its identity is remembered beside names, sizes and times of its
files, and read again only when one of those has changed.
"""

import hashlib
import json
import sys
from pathlib import Path

from jobs.service.claims import ModelSource
from jobs.service.endings import Ending
from jobs.settings import Settings
from jobs.states import RunOutcome
from training.events import Failure
from training.facts import ModelFacts
from training.run_directory import write_atomically
from worker.active_run import ActiveRun
from worker.environment import training_environment
from worker.relay import Relays, last_line
from worker.stopping import Stopped
from worker.verdict import Unusable, verdict
from worker.watch import watch


def read_facts(active: ActiveRun, relays: Relays, folder: Path) -> ModelFacts:
    """Inspect a model's folder.

    Raises:
        Unusable: It does not hold a model that can be trained.
        Stopped: The run is to stop.
        Fenced: The run is no longer ours.
        GaveUp: The worker had no time left.
    """
    fingerprint = _fingerprint(folder)
    facts_file = active.directory.path / "facts.json"
    watched = watch(
        active,
        [sys.executable, "-P", "-m", "training", "inspect", str(folder), "-o", str(facts_file)],
        training_environment(active.tag, active.directory.path / "home", gpus=()),
        relays,
        active.host.settings.phase_timeout_seconds,
    )
    if watched.reason is not None and watched.reason != "hung":
        raise Stopped(watched.reason)
    if watched.report.exit_code is None:
        raise Unusable(verdict(watched.reason, None, watched.report))
    if watched.report.exit_code != 0:
        raise Unusable(Ending(RunOutcome.FAILED, _unusable(last_line(active.directory.log_file))))
    facts = ModelFacts.model_validate_json(facts_file.read_bytes())
    _remember(active.host.settings, folder, fingerprint, facts.sha256)
    return facts


def check_pin(active: ActiveRun, relays: Relays, source: ModelSource, folder: Path) -> None:
    """Pass when the folder holds the very model the job was submitted for.

    Raises:
        Unusable: It has changed since.
        Stopped: The run is to stop.
        Fenced: The run is no longer ours.
        GaveUp: The worker had no time left.
    """
    sha256 = _remembered(active.host.settings, folder) or read_facts(active, relays, folder).sha256
    if sha256 != source.sha256:
        failure = Failure(
            code="model_changed",
            message=f"the base model {source.name} has changed since the job was submitted",
            fault="infrastructure",
            param="model",
            remedy="put the old files back, or add the new ones to the catalogue as a new model",
        )
        raise Unusable(Ending(RunOutcome.FAILED, failure))


def _unusable(message: str) -> Failure:
    return Failure(
        code="model_unusable",
        message=message,
        fault="spec",
        remedy="remove the model, and add it again from a folder that holds a whole model",
    )


def _fingerprint(folder: Path) -> str:
    entries = sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    )
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _remembered(settings: Settings, folder: Path) -> str | None:
    try:
        note = json.loads(_note(settings, folder).read_bytes())
    except FileNotFoundError:
        return None
    return str(note["sha256"]) if note["fingerprint"] == _fingerprint(folder) else None


def _remember(settings: Settings, folder: Path, fingerprint: str, sha256: str) -> None:
    note = _note(settings, folder)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps({"fingerprint": fingerprint, "sha256": sha256}).encode())


def _note(settings: Settings, folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    return settings.data_dir.resolve() / "model_facts" / f"{name}.json"
