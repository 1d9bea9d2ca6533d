"""A job as the body that makes it, and the same job again with changes."""

from typing import Any

import pytest

from jobs.models import Job
from tests.api.deployment import Client, Deployment, ok, refused

WHOLE = {
    "suffix": "tickets",
    "seed": 7,
    "metadata": {"team": "support"},
    "priority": 3,
    "limits": {"max_runtime_seconds": 600, "max_pending_seconds": None},
    "training": {
        "data": {"max_length": 64, "packing": True},
        "model": {"quantization": {"bits": 4, "type": "fp4"}},
        "adapter": {"r": 8, "target_modules": ["q_proj"]},
        "optimization": {"learning_rate": 0.0005, "num_train_epochs": 2.5},
        "checkpoints": {"save_steps": 7},
    },
}


def path_of(job: dict[str, Any], rest: str) -> str:
    return f"/fine_tuning/jobs/{job['id']}/{rest}"


def spec(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    return ok(client.http.get(path_of(job, "spec")))


def rerun(client: Client, job: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return ok(client.http.post(path_of(job, "rerun"), json=changes))


def asked(job: dict[str, Any]) -> dict[str, Any]:
    """What a reply says that its owner decided, or the server in their place."""
    keys = (
        "model", "training_file", "training_files", "validation_file", "suffix", "seed",
        "metadata", "resources", "priority", "limits", "training", "hyperparameters",
    )  # fmt: skip
    return {key: job[key] for key in keys}


@pytest.mark.parametrize("body", [{}, WHOLE], ids=["smallest", "whole"])
def test_a_spec_can_be_posted_again_as_it_is(admin: Client, body: dict[str, Any]) -> None:
    job = admin.submit(**body)
    found = spec(admin, job)
    again = ok(admin.http.post("/fine_tuning/jobs", json=found))
    assert asked(again) == asked(job)
    assert again["rerun_of"] is None
    assert spec(admin, again) == found
    for key, value in body.items():
        if key != "training":
            assert found[key] == value
    assert found["training"]["optimization"]["num_train_epochs"] is not None


def test_nothing_has_two_homes(admin: Client) -> None:
    hyperparameters = {"n_epochs": 4, "batch_size": 6, "learning_rate_multiplier": 2}
    job = admin.submit(
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    )
    found = spec(admin, job)
    assert not {"method", "hyperparameters", "training_files"} & found.keys()
    optimization = found["training"]["optimization"]
    assert optimization["num_train_epochs"] == 4
    assert optimization["per_device_train_batch_size"] == 6
    assert optimization["learning_rate"] == pytest.approx(4e-4)


def test_several_files_keep_their_weights(admin: Client) -> None:
    files = [{"file": admin.upload()["id"], "weight": weight} for weight in (1.0, 2.5)]
    job = admin.submit(training_files=files, validation_file=files[0]["file"])
    found = spec(admin, job)
    assert found["training_files"] == files
    assert "training_file" not in found
    assert asked(rerun(admin, job)) == asked(job)
    one = rerun(admin, job, training_file=files[1]["file"])
    assert one["training_files"] == [{"file": files[1]["file"], "weight": 1.0}]
    weighted = admin.submit(training_files=[files[1]])
    assert spec(admin, weighted)["training_files"] == [files[1]]


def test_a_rerun_is_a_new_job_that_says_of_which(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin, **WHOLE)
    reply = admin.http.post(path_of(job, "rerun"))  # without a body, as curl sends it
    again = ok(reply)
    assert again["id"] != job["id"]
    assert (again["status"], again["rerun_of"]) == ("queued", job["id"])
    assert asked(again) == asked(job)
    assert again["fine_tuned_model"] is None
    assert deployment.job(again["id"]).fine_tuned_model != job["fine_tuned_model"]
    assert rerun(admin, again)["rerun_of"] == again["id"]


def test_changes_are_laid_over_the_spec(admin: Client) -> None:
    job = admin.submit(**WHOLE)
    changes = {"training": {"adapter": {"r": 4}, "checkpoints": {"keep": 1}}, "suffix": "b"}
    again = rerun(admin, job, **changes)
    expected = {
        **job["training"],
        "adapter": {**job["training"]["adapter"], "r": 4},
        "checkpoints": {**job["training"]["checkpoints"], "keep": 1},
    }
    assert again["training"] == expected
    assert asked(again) == {**asked(job), "training": expected, "suffix": "b"}


def test_null_goes_back_to_the_default(admin: Client) -> None:
    job = admin.submit(**WHOLE)
    again = rerun(
        admin,
        job,
        suffix=None,
        metadata=None,
        limits=None,
        training={
            "model": None,
            "optimization": {"learning_rate": None, "num_train_epochs": None},
        },
    )
    assert (again["suffix"], again["metadata"]) == (None, None)
    assert again["limits"]["max_runtime_seconds"] is None
    assert again["training"]["model"]["quantization"] is None
    assert again["hyperparameters"]["learning_rate_multiplier"] == 1
    assert again["hyperparameters"]["n_epochs"] == 25  # chosen for three rows
    assert again["training"]["adapter"] == job["training"]["adapter"]


@pytest.mark.parametrize("spelling", ["method", "hyperparameters"])
def test_hyperparameters_replace_what_they_set(admin: Client, spelling: str) -> None:
    job = admin.submit(**WHOLE)
    given = {"n_epochs": 5, "batch_size": 12, "learning_rate_multiplier": "auto"}
    changes: dict[str, Any] = {
        "method": {"type": "supervised", "supervised": {"hyperparameters": given}},
        "hyperparameters": given,
    }
    again = rerun(admin, job, **{spelling: changes[spelling]})
    assert again["hyperparameters"] == {
        "n_epochs": 5, "batch_size": 12, "learning_rate_multiplier": 1.0
    }  # fmt: skip


def test_older_spellings_replace_the_canonical_ones(admin: Client) -> None:
    job = admin.submit(**WHOLE)
    changes = {"adapter": {"lora_r": 2}, "checkpoints": {"save_total_limit": 9}}
    again = rerun(admin, job, training=changes)
    assert (again["training"]["adapter"]["r"], again["training"]["checkpoints"]["keep"]) == (2, 9)
    wrong = {"training": {"adapter": {"r": 1, "lora_r": 2}}}
    error = refused(admin.http.post(path_of(job, "rerun"), json=wrong), 400)
    assert "adapter.lora_r: sets the same thing as training.adapter.r" in error["message"]


def test_another_method_begins_its_section_anew(admin: Client) -> None:
    job = admin.submit(training={"adapter": {"r": 8, "lora_alpha": 4}})
    full = rerun(admin, job, training={"adapter": {"type": "none"}})
    assert full["training"]["adapter"]["type"] == "none"
    assert full["training"]["optimization"]["learning_rate"] == 2e-5
    back = rerun(admin, full, training={"adapter": {"type": "lora"}})
    assert back["training"]["adapter"]["r"] == 16
    assert back["training"]["optimization"]["learning_rate"] == 2e-4
    chosen = admin.submit(training={"optimization": {"learning_rate": 3e-3}})
    kept = rerun(admin, chosen, training={"adapter": {"type": "none"}})
    assert kept["training"]["optimization"]["learning_rate"] == 3e-3
    four = admin.submit(**WHOLE)
    eight = rerun(admin, four, training={"model": {"quantization": {"bits": 8}}})
    assert eight["training"]["model"]["quantization"] == {
        "bits": 8, "type": None, "double_quant": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"lora": {"r": 8}}, "lora", "unknown key"),
        ({"training": {"adapter": {"rank": 8}}}, "training.adapter.rank", "lora_alpha"),
        ({"training": {"adapter": {"r": "8"}}}, "training.adapter.r", "valid integer"),
        ({"training": []}, "training", "JSON object"),
        ({"training": {"adapter": 3}}, "training.adapter", "JSON object"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"model": "other"}, "model", "'tiny'"),
        ({"model": None}, "model", "is required"),
        ({"training": {"data": {"max_length": 129}}}, "training.data.max_length", "128 or less"),
    ],
)
def test_changes_that_are_refused(
    deployment: Deployment, admin: Client, changes: dict[str, Any], param: str, words: str
) -> None:
    job = admin.submit()
    before = len(deployment.all(Job))
    error = refused(admin.http.post(path_of(job, "rerun"), json=changes), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert len(deployment.all(Job)) == before


@pytest.mark.parametrize("body", [[], "x", 3])
def test_changes_are_an_object(admin: Client, body: object) -> None:
    job = admin.submit()
    error = refused(admin.http.post(path_of(job, "rerun"), json=body), 400)
    assert "JSON object" in error["message"]


def test_a_file_that_was_deleted_is_refused(admin: Client) -> None:
    job = admin.submit()
    ok(admin.http.delete(f"/files/{job['training_file']}"))
    assert spec(admin, job)["training_file"] == job["training_file"]
    error = refused(admin.http.post(path_of(job, "rerun")), 400)
    assert (error["param"], error["code"]) == ("training_file", "file_not_found")


def test_secrets_are_hidden_and_still_run_again(deployment: Deployment, admin: Client) -> None:
    token = "hf_" + "a1B2" * 8
    job = admin.submit(metadata={"note": f"use {token}"})
    assert spec(admin, job)["metadata"] == {"note": "use [redacted]"}
    assert rerun(admin, job)["metadata"] == {"note": f"use {token}"}


def test_strangers_have_neither(admin: Client, stranger: Client) -> None:
    job = admin.submit()
    refused(stranger.http.get(path_of(job, "spec")), 404)
    refused(stranger.http.post(path_of(job, "rerun"), json={}), 404)


def test_integrations_are_part_of_a_spec(admin: Client) -> None:
    asked_for = [{"type": "wandb", "wandb": {"project": "p", "name": "hf_" + "a1B2" * 8}}]
    job = admin.submit(integrations=asked_for)
    (found,) = spec(admin, job)["integrations"]
    assert (found["type"], found["wandb"]["project"]) == ("wandb", "p")
    assert found["wandb"]["name"] == "[redacted]"
    again = rerun(admin, job)
    assert again["integrations"] == job["integrations"]
    assert rerun(admin, again, integrations=None)["integrations"] is None
    hidden = ok(admin.http.post("/fine_tuning/jobs", json=spec(admin, job)))
    assert hidden["integrations"][0]["wandb"]["project"] == "p"
