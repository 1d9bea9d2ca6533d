"""A server that speaks as much of MLflow's REST API as a run needs, and remembers what it heard."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]


class TrackingServer:
    """One experiment's worth of state; `is_away` has everything refused, with what came in it."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, Json] = {}
        self.authorizations: set[str] = set()
        self.is_away = False
        self.url = ""

    def points(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """All that came of each metric, in its order."""
        found: dict[str, list[tuple[int, float]]] = {}
        for each in self.runs[run_id]["metrics"]:
            found.setdefault(each["key"], []).append((int(each["step"]), each["value"]))
        return found

    def answer(self, path: str, said: Json) -> Json:
        verb = path.rpartition("/mlflow/")[2]
        answers = {
            "experiments/get-by-name": self._experiment,
            "experiments/create": self._new_experiment,
            "runs/search": self._search,
            "runs/get": lambda said: {"run": self._shown(said["run_id"])},
            "runs/create": self._new_run,
            "runs/update": self._update,
            "runs/log-batch": self._log,
            "metrics/get-history": self._history,
        }
        return answers[verb](said)

    def _experiment(self, said: Json) -> Json:
        name = said["experiment_name"]
        if name not in self.experiments:
            raise LookupError(name)
        found = {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}
        return {"experiment": found}

    def _new_experiment(self, said: Json) -> Json:
        self.experiments[said["name"]] = str(len(self.experiments))
        return {"experiment_id": self.experiments[said["name"]]}

    def _search(self, said: Json) -> Json:
        asked = re.fullmatch(r"tags\.`(.+)` = '(.+)'", said["filter"])
        assert asked is not None
        tag = {"key": asked[1], "value": asked[2]}
        return {"runs": [self._shown(i) for i, run in self.runs.items() if tag in run["tags"]]}

    def _new_run(self, said: Json) -> Json:
        run_id = f"{len(self.runs):032x}"
        self.runs[run_id] = {
            "name": said["run_name"],
            "tags": said["tags"],
            "user": said.get("user_id"),
            "status": "RUNNING",
            "metrics": [],
            "params": {},
        }
        return {"run": self._shown(run_id)}

    def _update(self, said: Json) -> Json:
        self.runs[said["run_id"]]["status"] = said["status"]
        return {"run_info": self._shown(said["run_id"])["info"]}

    def _log(self, said: Json) -> Json:
        run = self.runs[said["run_id"]]
        run["metrics"] += said.get("metrics", [])
        run["params"] |= {each["key"]: each["value"] for each in said.get("params", [])}
        return {}

    def _history(self, said: Json) -> Json:
        all_of_it = self.runs[said["run_id"]]["metrics"]
        return {"metrics": [each for each in all_of_it if each["key"] == said["metric_key"]]}

    def _shown(self, run_id: str) -> Json:
        run = self.runs[run_id]
        newest = {each["key"]: each for each in run["metrics"]}
        info = {
            "run_id": run_id,
            "experiment_id": "0",
            "status": run["status"],
            "lifecycle_stage": "active",
            "artifact_uri": "mlflow-artifacts:/",
        }
        return {"info": info, "data": {"metrics": [*newest.values()], "tags": run["tags"]}}


@contextmanager
def tracking_server() -> Iterator[TrackingServer]:
    """At a free port of this machine."""
    state = TrackingServer()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            said = json.loads(self.rfile.read(length) or "{}") | dict(parse_qsl(parts.query))
            authorization = self.headers.get("Authorization", "")
            state.authorizations.add(authorization)
            if state.is_away:
                self._reply(403, {"error_code": "PERMISSION_DENIED", "message": authorization})
                return
            try:
                self._reply(200, state.answer(parts.path, said))
            except LookupError as error:
                self._reply(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": str(error)})

        do_GET = do_POST = _serve  # noqa: N815 - the base class's names

        def _reply(self, code: int, body: Json) -> None:
            content = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
