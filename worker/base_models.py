"""Where a base model lies on this host: a folder is used in place, a hub id is fetched once."""

import hashlib
import sys
from pathlib import Path

from jobs.service.claims import ModelSource
from jobs.service.endings import Ending
from jobs.settings import Settings
from jobs.states import RunOutcome
from training.events import Failure
from worker.active_run import ActiveRun
from worker.environment import hub_environment
from worker.launchers.base import ExitReport
from worker.relay import Relays
from worker.stopping import Stopped
from worker.verdict import Unusable, verdict
from worker.watch import watch


def obtain(active: ActiveRun, relays: Relays, source: ModelSource) -> Path:
    """The model's folder on this host.

    Raises:
        Unusable: It is not there, or cannot be fetched.
        Stopped: The run is to stop.
        Fenced: The run is no longer ours.
    """
    folder = local_folder(source, active.host.settings)
    if not folder.is_dir():
        if _is_folder(source):
            raise Unusable(Ending(RunOutcome.FAILED, _missing(folder)))
        _fetch(active, relays, source, folder)
    return folder


def local_folder(source: ModelSource, settings: Settings) -> Path:
    """The model's folder; for a hub id it is there once it was fetched."""
    if _is_folder(source):
        return Path(source.source)
    identity = hashlib.sha256(f"{source.source}@{source.revision}".encode()).hexdigest()[:12]
    name = source.source.replace("/", "--")
    return settings.data_dir.resolve() / "models" / f"{name}-{identity}"


def _is_folder(source: ModelSource) -> bool:
    return source.source.startswith("/")


def _fetch(active: ActiveRun, relays: Relays, source: ModelSource, folder: Path) -> None:
    assert source.revision is not None, "a hub id is pinned when it enters the catalogue"
    failure_file = active.directory.path / "fetch_failure.json"
    program = [sys.executable, "-P", "-m", "worker.fetch"]
    watched = watch(
        active,
        [*program, source.source, source.revision, str(folder), str(failure_file)],
        hub_environment(active.tag, active.directory.path / "home", active.host.settings.hub_token),
        relays,
        silence_seconds=None,
    )
    if watched.reason is not None:
        raise Stopped(watched.reason)
    if watched.report.exit_code != 0:
        raise Unusable(_not_fetched(failure_file, watched.report))


def _not_fetched(failure_file: Path, report: ExitReport) -> Ending:
    """What trying again may mend is a crash, the rest a failure."""
    if not failure_file.exists():
        return verdict(None, None, report)
    failure = Failure.model_validate_json(failure_file.read_bytes())
    final = failure.code in {"model_gated", "model_missing"}
    return Ending(RunOutcome.FAILED if final else RunOutcome.CRASHED, failure)


def _missing(folder: Path) -> Failure:
    return Failure(
        code="model_missing",
        message=f"the base model's folder {folder} is not on this worker",
        fault="infrastructure",
        param="model",
        remedy="put the model there, or remove it from the catalogue",
    )
