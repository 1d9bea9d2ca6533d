"""A run of MLflow: at its server, or in a folder of files that MLflow can show.

Only numbers, the configuration and the user's own tags are sent: the client is used as it is,
because MLflow's fluent functions add who, where and with which code.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from training.config import TrainingConfig
from training.ledger import Numbers
from training.reporting import Reporter
from training.run_directory import RunDirectory
from training.run_spec import RunSpec
from training.tracker import facts, grouped, reason, shared_id

_ENVIRONMENT = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # its database would take seconds to make
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",  # the token is for one host
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_ID_TAG = "tunesmith.id"
_NOWHERE = "mlflow-artifacts:/"  # no artifact is sent, and a path would tell of this machine
_MAX_METRICS = 1000  # that MLflow takes at once
_MAX_PARAMETERS = 100
_MAX_WAITING = 50_000
_MAX_VALUE_CHARACTERS = 500  # of a parameter, for servers of every age
_PAUSE_SECONDS = 30.0


class MlflowRun:
    """Keeps what a server does not take, and tries again: it may be away for a while.

    Whatever the package raises is no reason to end the training.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - an optional package
        run_id: str,
        reporter: Reporter,
        written: Mapping[str, int],
    ) -> None:
        """A run that is open.

        Args:
            client: Of the server, or of the folder.
            run_id: MLflow's.
            reporter: Told of outages.
            written: The last step of each metric that an earlier attempt has told of.
        """
        self._client = client
        self._run_id = run_id
        self._reporter = reporter
        self._written = written
        self._waiting: list[Any] = []
        self._is_away = False
        self._not_before = 0.0

    def write(self, step: int, numbers: Numbers) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - an optional package

        now = round(time.time() * 1000)
        new = [
            Metric(name, float(value), now, step)
            for name, value in grouped(numbers).items()
            if step > self._written.get(name, -1)
        ]
        self._waiting += new[: _MAX_WAITING - len(self._waiting)]
        if time.monotonic() >= self._not_before:
            self._try(self._send)

    def close(self, *, failed: bool) -> None:
        status = "FAILED" if failed else "FINISHED"
        if self._try(self._send):
            self._try(lambda: self._client.set_terminated(self._run_id, status))
        else:
            self._reporter.warn(
                f"{len(self._waiting)} numbers could not be sent to mlflow.", integration="mlflow"
            )

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run_id, metrics=self._waiting[:_MAX_METRICS])
            del self._waiting[:_MAX_METRICS]

    def _try(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - see above
            if not self._is_away:
                self._reporter.warn(
                    f"mlflow does not take the metrics, which is tried again: {reason(error)}.",
                    integration="mlflow",
                )
            self._is_away = True
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            return False
        self._is_away = False
        return True


def open_mlflow(
    directory: RunDirectory, spec: RunSpec, config: TrainingConfig, reporter: Reporter
) -> MlflowRun | None:
    """The run, at the server of `MLFLOW_TRACKING_URI`, else in files; None if neither can be."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401, PLC0415 - an optional package
    except ImportError:
        reporter.warn(
            "The package mlflow-skinny is not installed on this worker: nothing is written for it.",
            integration="mlflow",
        )
        return None
    run, where = _at_server(spec, config, reporter), "at its server"
    try:
        if run is None:
            # In a folder that is there, no experiment is made that nobody asked for.
            directory.mlflow.mkdir(exist_ok=True)
            run, where = _begin(directory.mlflow.as_uri(), spec, config, reporter), "to files"
    except Exception as error:  # noqa: BLE001 - as in MlflowRun
        reporter.warn(f"Nothing is written for mlflow: {reason(error)}.", integration="mlflow")
        return None
    reporter.tell(f"Metrics are written for mlflow as well, {where}.", integration="mlflow")
    return run


def _at_server(spec: RunSpec, config: TrainingConfig, reporter: Reporter) -> MlflowRun | None:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    try:
        return _begin(uri, spec, config, reporter)
    except Exception as error:  # noqa: BLE001 - as in MlflowRun
        reporter.warn(
            "The server of mlflow cannot be used, so the metrics are written to files: "
            f"{reason(error)}.",
            integration="mlflow",
        )
        return None


def _begin(uri: str, spec: RunSpec, config: TrainingConfig, reporter: Reporter) -> MlflowRun:
    """A new run, or the one that an earlier attempt has begun."""
    from mlflow import MlflowClient  # noqa: PLC0415 - an optional package
    from mlflow.entities import Param  # noqa: PLC0415

    asked, shared = spec.mlflow, shared_id(spec)
    assert asked is not None
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    location = _NOWHERE if uri.startswith("file:") else None
    experiment_id = _experiment(client, asked.experiment, location)
    earlier = _earlier(client, experiment_id, shared) if shared else None
    if earlier is not None:
        run_id = earlier.info.run_id
        client.update_run(run_id, status="RUNNING")
        written = {
            name: max(metric.step for metric in client.get_metric_history(run_id, name))
            for name in earlier.data.metrics
        }
        return MlflowRun(client, run_id, reporter, written)
    tags = {**(asked.tags or {}), **({_ID_TAG: shared} if shared else {})}
    run_id = client.create_run(
        experiment_id, run_name=asked.name or spec.name, tags=tags
    ).info.run_id
    parameters = [Param(name, value) for name, value in _parameters(facts(spec, config)).items()]
    for start in range(0, len(parameters), _MAX_PARAMETERS):
        client.log_batch(run_id, params=parameters[start : start + _MAX_PARAMETERS])
    return MlflowRun(client, run_id, reporter, {})


def _experiment(client: Any, name: str, location: str | None) -> str:  # noqa: ANN401 - an optional package
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - an optional package

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, location))
        except MlflowException:  # another job was faster, or there is a reason that remains
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _earlier(client: Any, experiment_id: str, shared: str) -> Any:  # noqa: ANN401 - an optional package
    query = f"tags.`{_ID_TAG}` = '{shared}'"
    runs = client.search_runs([experiment_id], filter_string=query, max_results=1)
    return runs[0] if runs else None


def _parameters(told: Mapping[str, Any]) -> dict[str, str]:
    """As MLflow has them: short words, under the names of the configuration's sections."""
    sections = told["training"].items()
    flat = {
        **{name: value for name, value in told.items() if name != "training"},
        **{f"{section}.{key}": value for section, part in sections for key, value in part.items()},
    }
    return {
        name: (value if isinstance(value, str) else json.dumps(value))[:_MAX_VALUE_CHARACTERS]
        for name, value in flat.items()
        if value is not None
    }
