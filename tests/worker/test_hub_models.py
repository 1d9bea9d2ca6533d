"""A model that the hub does not give, as the owner of a model and of a job hears of it."""

import shutil
from pathlib import Path

import pytest

from jobs.requests import ModelRequest
from jobs.service import catalogue
from tests.worker.deployment import Deployment
from tests.worker.hub import REVISION, running_hub

pytestmark = pytest.mark.slow


def test_access_that_is_withheld_fails_the_model_and_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        deployment = Deployment(tmp_path)
        try:
            deployment.start_worker()
            for name, mood in (("gated", "gated"), ("gone", "gone"), ("tiny", "open")):
                hub.mood = mood  # type: ignore[assignment]
                add_from_hub(deployment, name)
            errors = {name: deployment.model(name).error for name in ("gated", "gone", "tiny")}
            assert {name: error and error["code"] for name, error in errors.items()} == {
                "gated": "model_gated", "gone": "model_missing", "tiny": None,
            }  # fmt: skip
            job_id = deployment.submit(max_steps=2)
            assert deployment.wait_for_end(job_id) == "succeeded"

            hub.mood = "gated"  # and a worker that does not have the model yet
            shutil.rmtree(deployment.settings.data_dir / "models")
            job_id = deployment.submit(max_steps=2)
            assert deployment.wait_for_end(job_id) == "failed"
            error = deployment.job(job_id).error
            assert error is not None
            assert (error["code"], error["fault"]) == ("model_gated", "infrastructure")
            assert "TUNESMITH_HUB_TOKEN" in error["remedy"]
            assert len(deployment.runs(job_id)) == 1
        finally:
            deployment.close()


def test_a_hub_that_does_not_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        deployment = Deployment(tmp_path)
        try:
            deployment.start_worker()
            add_from_hub(deployment, "tiny")
            shutil.rmtree(deployment.settings.data_dir / "models")
            hub.mood = "broken"
            job_id = deployment.submit(max_steps=2)
            assert deployment.wait_for_end(job_id, 90) == "failed"
            error = deployment.job(job_id).error
            assert error is not None
            assert error["code"] == "model_fetch_failed"
            assert error["remedy"]
            assert [run.outcome for run in deployment.runs(job_id)] == ["crashed"] * 3
        finally:
            deployment.close()


def add_from_hub(deployment: Deployment, name: str) -> None:
    with deployment.database.writing() as session:
        request = ModelRequest(name=name, source="org/model", revision=REVISION)
        catalogue.add(session, deployment.identity, request)
    deployment.bell.ring("default")
    deployment.wait_until(lambda: deployment.model(name).status != "pending", 60)
