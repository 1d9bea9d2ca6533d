"""A run that exports: stage what was trained, launch, upload the file or push the folder.

The process that opens models has neither token nor network, and the one that pushes opens none.
"""

import sys
from dataclasses import replace
from pathlib import Path

from jobs.service.claims import ExportAssignment
from jobs.service.endings import Ending
from jobs.service.export_runs import Made
from jobs.states import RunOutcome
from training.export_spec import ExportSpec, Pushed
from training.run_directory import read_manifest, verify
from worker.active_run import ActiveRun
from worker.base_models import obtain
from worker.environment import hub_environment, training_environment
from worker.model_facts import check_pin
from worker.relay import Relays, relays_of
from worker.results import RESULT_INVALID, patiently, write_archive
from worker.stopping import Stopped
from worker.transfers import upload, upload_expected
from worker.verdict import verdict
from worker.watch import watch
from worker.weights import stage_weights, stage_whole_model

_AWAY = "hub_push_failed"


def export(active: ActiveRun, assignment: ExportAssignment) -> Ending:
    """Export, with the file in the store, or the folder on the hub, when it returns.

    Raises:
        Stopped: The run was to stop before it had started, or while it uploaded.
        Unusable: What was trained is missing or has changed, or the base model cannot be had.
        Fenced: The run is no longer ours; all its processes are gone.
        GaveUp: The worker had no time left.
    """
    relays = relays_of(active, on_checkpoint=lambda _: None)
    spec = _staged(active, relays, assignment)
    home, settings = active.directory.path / "home", active.host.settings
    ending = _launch(
        active,
        relays,
        spec.model_copy(update={"export": spec.export.to_make()}),
        training_environment(active.tag, home, gpus=()),
    )
    if ending.outcome == RunOutcome.SUCCEEDED and not verify(active.directory.result):
        ending = Ending(RunOutcome.CRASHED, RESULT_INVALID)
    if ending.outcome == RunOutcome.SUCCEEDED and spec.export.kind == "hub":
        environment = hub_environment(active.tag, home, settings.hub_push_token)
        ending = _launch(active, relays, spec, environment)
    active.free_slots()
    if ending.outcome != RunOutcome.SUCCEEDED:
        return ending
    return replace(ending, made=_made(active, spec))


def _staged(active: ActiveRun, relays: Relays, assignment: ExportAssignment) -> ExportSpec:
    """The folders that the export is made of, in place."""
    plan, store, directory = assignment.plan, active.host.store, active.directory
    whole, adapter = plan.weights.whole, plan.weights.adapter
    needs_base = plan.config.made != "adapter" or plan.step is not None
    base: Path | None = None
    if needs_base:
        base = obtain(active, relays, assignment.model)
        check_pin(active, relays, assignment.model, base)
    if base is not None and whole is not None:
        stage_whole_model(store, whole, base, directory.base, active.check)
        base = directory.base
    if adapter is not None:
        stage_weights(store, adapter, directory.start, active.check)
    under = whole if adapter is not None else None
    return ExportSpec(
        export=plan.config,
        model_path=None if base is None else str(base),
        adapter_path=None if adapter is None else str(directory.start),
        base_model=assignment.model.name if under is None else under.name,
        name=plan.name,
        training=plan.training,
        formats=list(plan.formats),
        step=plan.step,
        attempt=active.claim.attempt,
    )


def _launch(
    active: ActiveRun, relays: Relays, spec: ExportSpec, environment: dict[str, str]
) -> Ending:
    """One process of the export; a hub that was away is a crash, which is tried again."""
    active.directory.write_export(spec)
    relays.events.finished = None  # of the process before
    pushes = spec.export.kind == "hub"
    watched = watch(
        active,
        [sys.executable, "-P", "-m", "training", "export", str(active.directory.path)],
        environment,
        relays,
        None if pushes else active.host.settings.phase_timeout_seconds,
    )
    ending = verdict(watched.reason, relays.events.finished, watched.report)
    if ending.failure is not None and ending.failure.code == _AWAY:
        return replace(ending, outcome=RunOutcome.CRASHED)
    return ending


def _made(active: ActiveRun, spec: ExportSpec) -> Made:
    if spec.export.kind == "hub":
        content = active.directory.pushed_file.read_bytes()
        return Made(pushed=Pushed.model_validate_json(content))
    return patiently(active.claim.run_id, lambda: _stored(active, spec))


def _stored(active: ActiveRun, spec: ExportSpec) -> Made:
    """The one file that is downloaded: the GGUF file itself, or an archive of the folder."""
    store, result = active.host.store, active.directory.result
    prefix = f"exports/{active.claim.export_id}/attempt-{active.claim.attempt}"

    def check() -> None:
        active.check_held()
        if active.heartbeat.orders.cancelled:
            raise Stopped("cancel")

    if spec.export.kind == "gguf":
        (entry,) = (e for e in read_manifest(result).files if e.path.endswith(".gguf"))
        key = f"{prefix}/{entry.path}"
        stored = upload_expected(store, result / entry.path, key, entry.sha256, check)
        return Made(stored.key, entry.path, stored.bytes, stored.sha256)
    local = active.directory.path / f"{spec.stem}-{spec.export.kind}.zip"
    write_archive(result, local)
    try:
        stored = upload(store, local, f"{prefix}/{local.name}", check)
    finally:
        local.unlink()
    return Made(stored.key, local.name, stored.bytes, stored.sha256)
