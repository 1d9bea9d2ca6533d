"""Each refusal becomes the exception that the client has for it, with all that it says."""

from typing import Any

import pytest

from tests.sdk.conftest import Connect
from tests.sdk.service import Service
from tests.sdk.work import run, submit, upload


def _said(error: Any, status: int, code: str, param: str | None) -> str:
    """The message of an error, after a look at the rest of it."""
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type == error.body["type"]
    assert error.request_id.startswith("req_")
    assert error.request_id == error.response.headers["x-request-id"]
    return str(error.body["message"])


def test_400(openai: Any, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        submit(client, extra_body={"training": {"adapter": {"rank": 8}}})
    said = _said(caught.value, 400, "unknown_key", "training.adapter.rank")
    assert "training.adapter.rank" in said
    assert "lora_alpha" in said  # among the keys that are accepted


def test_a_file_with_errors_is_not_trained_on(openai: Any, client: Any) -> None:
    bad = upload(client, b'{"messages": []}\n')
    with pytest.raises(openai.BadRequestError) as caught:
        submit(client, training_file=bad.id)
    assert caught.value.param == "training_file"


def test_401(openai: Any, connect: Connect) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        connect("sk-wrong").models.list()
    _said(caught.value, 401, "invalid_api_key", None)


def test_403(openai: Any, connect: Connect, service: Service, team: Any) -> None:
    member = connect(service.key(team.project_id, "member"))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        member.models.delete("tiny")
    _said(caught.value, 403, "admin_required", None)


def test_404(openai: Any, client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert "ftjob-none" in _said(caught.value, 404, "job_not_found", "job_id")


def test_another_project_has_none_of_it(
    openai: Any, client: Any, connect: Connect, service: Service
) -> None:
    job = submit(client)
    stranger = connect(service.team().secret)
    for ask in (stranger.fine_tuning.jobs.retrieve, stranger.fine_tuning.jobs.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(job.id)
    with pytest.raises(openai.NotFoundError):
        stranger.files.content(job.training_file)
    assert list(stranger.fine_tuning.jobs.list()) == []


def test_409_is_not_tried_again(openai: Any, client: Any) -> None:
    job_id = run(client, steps=1).id
    with pytest.raises(openai.ConflictError) as caught:
        client.fine_tuning.jobs.cancel(job_id)
    assert "succeeded" in _said(caught.value, 409, "job_finished", None)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_what_is_not_json_is_told_too(openai: Any, client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.get("/nowhere", cast_to=object)
    assert "/v1/nowhere" in _said(caught.value, 404, "unknown_url", None)


def test_every_reply_has_a_request_id(client: Any) -> None:
    job = submit(client)
    assert job._request_id.startswith("req_")
    raw = client.fine_tuning.jobs.with_raw_response.retrieve(job.id)
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.parse() == job
