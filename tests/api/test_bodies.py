"""Bodies that are refused, each with the place at fault."""

import json
from typing import Any

import pytest

from tests.api.deployment import Client, refused
from training.section import Section

_JOB = {"model": "tiny", "training_file": "file-1"}
_DEEP = b'{"model": ' + b"[" * 500 + b"]" * 500 + b"}"
_VERY_DEEP = b"[" * 9000 + b"]" * 9000

_NOT_STRICT: list[tuple[bytes, str | None, str]] = [
    (b"", None, "empty"),
    (b"   ", None, "empty"),
    (b"{", None, "line 1"),
    (b"not json", None, "not JSON"),
    (b"{'model': 'tiny'}", None, "not JSON"),
    (b'{"model": "tiny"} x', None, "Extra data"),
    (b'\xff\xfe{"model"', None, "UTF-8"),
    (b'{"model": "caf\xe9"}', None, "0xe9"),
    (b'{"model": "a\nb"}', None, "control character"),
    (b'{"model": "a", "model": "b"}', None, "'model' twice"),
    (b'{"metadata": {"k": "a", "k": "b"}}', "metadata", "'k' twice"),
    (b'{"training_files": [{"file": "a", "file": "b"}]}', "training_files.0", "'file' twice"),
    (b'{"seed": NaN}', "seed", "finite"),
    (b'{"training": {"optimization": {"learning_rate": Infinity}}}',
     "training.optimization.learning_rate", "finite"),
    (b'{"seed": -Infinity}', "seed", "finite"),
    (b'{"seed": 1e999}', "seed", "finite"),
    (b'{"seed": 9223372036854775808}', "seed", "64 bits"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "seed", "finite"),
    (b'{"model": "a\\u0000b"}', "model", "NUL"),
    (b'{"a\\u0000b": 1}', None, "NUL"),
    (b'{"metadata": {"k": "\\u0000"}}', "metadata.k", "NUL"),
    (b'{"model": "\\ud800"}', "model", "surrogate"),
    (b'{"suffix": "x\\udfff"}', "suffix", "surrogate"),
    (b'{"metadata": {"\\ud83d": "v"}}', "metadata", "surrogate"),
    (b'{"training": {"data": {"format": "\\udc00\\ud800"}}}', "training.data.format", "surrogate"),
    (_DEEP, None, "64"),
    (_VERY_DEEP, None, "64"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "param", "words"), _NOT_STRICT)
def test_json_that_is_not_strict(admin: Client, raw: bytes, param: str | None, words: str) -> None:
    headers = {"content-type": "application/json"}
    error = refused(admin.http.post("/fine_tuning/jobs", content=raw, headers=headers), 400)
    assert (error["param"], error["code"]) == (param, "invalid_json")
    assert words in error["message"]


def test_a_pair_of_surrogates_is_a_character(admin: Client) -> None:
    raw = json.dumps({"name": "smile \U0001f600", "role": "member"}).encode()
    assert b"\\ud83d" in raw
    headers = {"content-type": "application/json; charset=utf-8"}
    reply = admin.http.post("/api_keys", content=raw, headers=headers)
    assert reply.json()["name"] == "smile \U0001f600"


_UNKNOWN: list[tuple[dict[str, Any], str, str]] = [
    ({"lora": {}}, "lora", "training_file"),
    ({"training": {"optimisation": {}}}, "training.optimisation", "optimization"),
    ({"training": {"adapter": {"rank": 8}}}, "training.adapter.rank", "lora_alpha"),
    ({"training": {"optimization": {"lr": 1}}}, "training.optimization.lr", "learning_rate"),
    (
        {"training": {"model": {"add_special_tokens": {"pad": "<pad>"}}}},
        "training.model.add_special_tokens.pad",
        "pad_token",
    ),
    ({"resources": {"gpu": 1}}, "resources.gpu", "gpus"),
    ({"limits": {"hours": 1}}, "limits.hours", "max_runtime_seconds"),
    ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo", "supervised"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"epochs": 1}}}},
        "method.supervised.hyperparameters.epochs",
        "n_epochs",
    ),
]


@pytest.mark.parametrize(("change", "param", "accepted"), _UNKNOWN)
def test_unknown_keys_are_named_with_the_known_ones(
    admin: Client, change: dict[str, Any], param: str, accepted: str
) -> None:
    error = refused(admin.http.post("/fine_tuning/jobs", json=_JOB | change), 400)
    assert (error["param"], error["code"]) == (param, "unknown_key")
    assert accepted in error["message"]


_ENDPOINT = {"name": "n", "event_types": ["fine_tuning.job.failed"]}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/api_keys", {"name": ""}, "name should have at least 1 character, but"),
        ("/api_keys", {"name": "x" * 101}, "name should have at most 100 characters, but"),
        (
            "/webhook_endpoints",
            {**_ENDPOINT, "url": ""},
            "url should have at least 1 character, but",
        ),
    ],
)
def test_the_length_of_a_text_is_told_in_characters(
    admin: Client, path: str, body: dict[str, Any], words: str
) -> None:
    assert words in refused(admin.http.post(path, json=body), 400)["message"]


def test_an_unknown_key_in_a_list(admin: Client) -> None:
    body = {"model": "tiny", "training_files": [{"file": "a"}, {"file": "b", "wait": 1}]}
    error = refused(admin.http.post("/fine_tuning/jobs", json=body), 400)
    assert error["param"] == "training_files.1.wait"
    assert "weight" in error["message"]


_WANDB = {"type": "wandb", "wandb": {"project": "p"}}
_TAG = "integrations.0.mlflow.tags.mlflow.user"
_TOKEN = "training.model.add_tokens.0"
_URI = "integrations.0.mlflow.tracking_uri"


def _mlflow(**more: Any) -> dict[str, Any]:
    return {"type": "mlflow", "mlflow": {"experiment": "e", **more}}


_WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"model": 5}, "model", "5", "string"),
    ({"model": None}, "model", "null", "string"),
    ({"seed": "seven"}, "seed", '"seven"', "integer"),
    ({"seed": -1}, "seed", "-1", "greater than or equal to 0"),
    ({"seed": 1.5}, "seed", "1.5", "integer"),
    ({"suffix": "x" * 65}, "suffix", "x", "1 to 64 letters"),
    ({"suffix": "a/b"}, "suffix", "a/b", "1 to 64 letters"),
    ({"metadata": "team"}, "metadata", "team", "object"),
    ({"metadata": {"k": 5}}, "metadata.k", "5", "string"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "v", "at most 512 characters, but"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "", "at most 16 items, not more"),
    ({"method": {"type": "dpo"}}, "method.type", "dpo", "supervised"),
    ({"method": []}, "method", "[]", "object"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "0", "auto"),
    ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", "many", "auto"),
    ({"resources": {"gpus": 2}}, "resources.gpus", "2", "1"),
    ({"resources": {"pool": "A B"}}, "resources.pool", "A B", "small letters"),
    ({"priority": 101}, "priority", "101", "100"),
    ({"training": {"adapter": {"r": "many"}}}, "training.adapter.r", '"many"', "integer"),
    ({"training": {"model": {"add_tokens": [""]}}}, _TOKEN, '""', "at least 1 character, but"),
    ({"training": 3}, "training", "3", "object"),
    ({"integrations": [_WANDB, _WANDB]}, "integrations", "wandb", "at most once"),
    ({"integrations": [{"type": "slack"}]}, "integrations.0", "slack", "wandb, mlflow"),
    ({"integrations": [{"type": "wandb"}]}, "integrations.0.wandb", "wandb", "required"),
    ({"integrations": [{"type": "mlflow"}]}, "integrations.0.mlflow", "mlflow", "required"),
    ({"integrations": ["mlflow"]}, "integrations.0", "mlflow", "wandb, mlflow"),
    ({"integrations": [_WANDB | {"mlflow": {}}]}, "integrations.0.mlflow", "unknown", "wandb"),
    ({"integrations": [_mlflow(tags={"mlflow.user": "me"})]}, _TAG, "mlflow.user", "named by"),
    ({"integrations": [_mlflow(tracking_uri="http://a")]}, _URI, "tracking_uri", "experiment"),
]


@pytest.mark.parametrize(("change", "param", "value", "accepted"), _WRONG)
def test_wrong_values_are_shown_with_what_is_accepted(
    admin: Client, change: dict[str, Any], param: str, value: str, accepted: str
) -> None:
    error = refused(admin.http.post("/fine_tuning/jobs", json=_JOB | change), 400)
    assert error["param"] == param
    assert param in error["message"]
    assert value in error["message"]
    assert accepted in error["message"]


_CONFUSED: list[tuple[str, object, str]] = [
    ("seed", "7", "valid integer"),
    ("seed", True, "valid integer"),
    ("seed", 7.0, "valid integer"),
    ("model", True, "valid string"),
    ("priority", "0", "valid integer"),
    ("resources.gpus", True, "valid integer"),
    ("limits.max_runtime_seconds", "60", "valid integer"),
    ("hyperparameters.n_epochs", "3", "valid integer or be 'auto'"),
    ("hyperparameters.n_epochs", True, "valid integer or be 'auto'"),
    ("hyperparameters.learning_rate_multiplier", "2", "valid number or be 'auto'"),
    ("training.data.packing", 1, "valid boolean"),
    ("training.data.packing", "true", "valid boolean"),
    ("training.data.max_length", "512", "valid integer"),
    ("training.model.quantization.bits", "4", "4 or 8"),
    ("training.model.quantization.bits", True, "4 or 8"),
    ("training.model.load_in_4bit", "false", "true, false or null"),
    ("training.model.load_in_8bit", 1, "true, false or null"),
    ("training.adapter.r", "8", "valid integer"),
    ("training.adapter.r", True, "valid integer"),
    ("training.adapter.lora_alpha", "16", "valid number"),
    ("training.adapter.target_modules", 5, "all-linear"),
    ("training.adapter.target_modules", [1], "all-linear"),
    ("training.optimization.learning_rate", "2e-4", "valid number"),
    ("training.reporting.report_to", [{}], "tensorboard"),
    ("training.optimization.num_train_epochs", True, "valid number"),
    ("training.optimization.warmup_ratio", "0.1", "a share of all steps"),
    ("training.parallelism.num_processes", True, "valid integer"),
    ("training.evaluation.sample_prompts", "Hello?", "valid list"),
    ("training.parallelism.offload", True, '["optimizer"]'),
    ("training.reporting.report_to", ["comet_ml"], "wandb and mlflow"),
]


@pytest.mark.parametrize(
    ("path", "value", "accepted"), _CONFUSED, ids=[f"{p}={v!r}" for p, v, _ in _CONFUSED]
)
def test_nothing_is_taken_for_something_else(
    admin: Client, path: str, value: object, accepted: str
) -> None:
    body = _at(path, value)
    error = refused(admin.http.post("/fine_tuning/jobs", json=_JOB | body), 400)
    assert error["code"] == "invalid_value"
    assert path.removeprefix("training.") in error["message"]
    assert json.dumps(value).strip("[]") in error["message"]
    assert accepted in error["message"]


_TAKEN = {
    "training.optimization.num_train_epochs": 2,
    "training.optimization.learning_rate": 1,
    "training.optimization.warmup_steps": 10,
    "training.adapter.lora_alpha": 16,
    "training.model.load_in_4bit": False,
    "hyperparameters.learning_rate_multiplier": 2,
    "hyperparameters.n_epochs": "auto",
    "training.model.dtype": "float32",
}


@pytest.mark.parametrize("path", _TAKEN)
def test_an_integer_may_stand_for_a_float_and_a_word_for_a_choice(admin: Client, path: str) -> None:
    admin.submit(**_at(path, _TAKEN[path]))


def _at(path: str, value: object) -> dict[str, Any]:
    """A body that says `value` at a dotted path."""
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("body", [[], 1, "x", None, True])
def test_a_body_that_is_no_object(admin: Client, body: object) -> None:
    raw = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    error = refused(admin.http.post("/fine_tuning/jobs", content=raw, headers=headers), 400)
    assert "body" in error["message"]


def test_missing_fields_are_all_named(admin: Client) -> None:
    error = refused(admin.http.post("/models", json={}), 400)
    assert (error["param"], error["code"]) == ("name", "missing_field")
    assert "source" in error["message"]


def test_rules_of_a_submission_name_their_field(admin: Client) -> None:
    file = admin.upload()["id"]
    for change, param in (
        ({"model": "gone"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"training": {"data": {"format": "instruct"}}}, "training.data.format"),
    ):
        body = {"model": "tiny", "training_file": file} | change
        error = refused(admin.http.post("/fine_tuning/jobs", json=body), 400)
        assert error["param"] == param
    assert admin.http.get("/fine_tuning/jobs").json()["data"] == []


def test_an_integration_is_kept_and_shown(admin: Client) -> None:
    asked = {"type": "wandb", "wandb": {"project": "tickets", "tags": ["a"]}}
    job = admin.submit(integrations=[asked, _mlflow()])
    shown = {"project": "tickets", "name": None, "entity": None, "tags": ["a"]}
    other = {"experiment": "e", "name": None, "tags": None}
    assert job["integrations"] == [
        {"type": "wandb", "wandb": shown},
        {"type": "mlflow", "mlflow": other},
    ]
    assert admin.job(job["id"])["integrations"] == job["integrations"]
    assert admin.submit(integrations=[])["integrations"] is None


def test_no_refusal_shows_a_pattern() -> None:
    """Whoever wrote `5 GB` for `5GB` is told in words what is wanted (`InWords`)."""
    schemas = [each.__pydantic_core_schema__ for each in Section.__subclasses__()]
    assert len(schemas) > 20
    assert [pattern for schema in schemas for pattern in _untold(schema)] == []


def _untold(schema: object) -> list[str]:
    """The patterns of a schema of pydantic's that no words stand for."""
    if isinstance(schema, list | tuple):
        return [pattern for each in schema for pattern in _untold(each)]
    if not isinstance(schema, dict) or schema.get("type") == "custom-error":
        return []
    own = [schema["pattern"]] if schema.get("type") == "str" and "pattern" in schema else []
    return own + [pattern for each in schema.values() for pattern in _untold(each)]
