"""The results file of a job: what was measured at each step, as the table OpenAI's clients read."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs.artifacts.base import ArtifactStore
from jobs.service.endings import StoredArtifact
from worker.transfers import Check, upload

STEP_METRICS = "step_metrics.csv"
COLUMNS = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
)


def write_table(measured: Iterable[tuple[int, Mapping[str, Any]]], target: Path) -> None:
    """Write one row per step at which one of `COLUMNS` was measured.

    Args:
        measured: Steps in order, each as often as something was measured at it; the last counts.
        target: A CSV file; a cell is empty where nothing was measured.
    """
    rows: dict[int, dict[str, Any]] = {}
    for step, metrics in measured:
        found = {name: metrics[name] for name in COLUMNS if metrics.get(name) is not None}
        if found:
            rows.setdefault(step, {}).update(found)
    with target.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("step", *COLUMNS))
        table.writerows((step, *map(row.get, COLUMNS)) for step, row in rows.items())


def upload_table(store: ArtifactStore, source: Path, prefix: str, check: Check) -> StoredArtifact:
    """Store a written table below `prefix`."""
    stored = upload(store, source, f"{prefix}/{STEP_METRICS}", check)
    return StoredArtifact(STEP_METRICS, stored.key, stored.bytes, stored.sha256)
