"""`client.models`: names hold `/` and `:`."""

from typing import Any

import pytest

from tests.sdk.conftest import Connect
from tests.sdk.service import Service
from tests.sdk.work import run, submit


def test_base_models_are_found(client: Any) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"tiny", "meta/tiny-v1.0"} <= listed.keys()
    for name in ("tiny", "meta/tiny-v1.0"):
        assert client.models.retrieve(name) == listed[name]
        assert (listed[name].object, listed[name].id) == ("model", name)
        assert listed[name].created > 0
        assert listed[name].owned_by


def test_a_name_with_a_slash_is_trained(client: Any) -> None:
    assert submit(client, model="meta/tiny-v1.0").model == "meta/tiny-v1.0"


def test_a_model_that_is_not_there(openai: Any, client: Any) -> None:
    for name in ("nothing", "meta/nothing", "ft:tiny:nobody::none"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert repr(name) in caught.value.body["message"]


def test_a_tuned_model_is_found_and_deleted(
    openai: Any, client: Any, connect: Connect, service: Service
) -> None:
    name = run(client, model="meta/tiny-v1.0", suffix="mine").fine_tuned_model
    assert name.startswith("ft:meta/tiny-v1.0:")
    assert client.models.retrieve(name).id == name
    assert name in [model.id for model in client.models.list()]
    stranger = connect(service.team().secret)
    with pytest.raises(openai.NotFoundError):
        stranger.models.delete(name)
    deleted = client.models.delete(name)
    assert (deleted.id, deleted.object, deleted.deleted) == (name, "model", True)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    assert name not in [model.id for model in client.models.list()]


def test_a_member_may_not_delete_a_base_model(
    openai: Any, connect: Connect, service: Service, team: Any
) -> None:
    member = connect(service.key(team.project_id, "member"))
    with pytest.raises(openai.PermissionDeniedError):
        member.models.delete("tiny")
