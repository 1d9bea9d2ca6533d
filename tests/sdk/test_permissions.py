"""`client.fine_tuning.checkpoints.permissions`; what one lists, the older client retrieves."""

from typing import Any

import pytest

from tests.sdk.conftest import Connect
from tests.sdk.service import Service, Team
from tests.sdk.work import run, submit


def _listed(client: Any, name: str, **query: Any) -> list[Any]:
    permissions = client.fine_tuning.checkpoints.permissions
    if hasattr(permissions, "list"):
        return list(permissions.list(name, **query))
    return list(permissions.retrieve(name, **query).data)


@pytest.mark.parametrize("of", ["model", "checkpoint"])
def test_a_project_is_let_in_and_out(
    openai: Any, client: Any, connect: Connect, service: Service, team: Team, of: str
) -> None:
    job = run(client, model="meta/tiny-v1.0")
    (checkpoint, *_) = client.fine_tuning.jobs.checkpoints.list(job.id)
    name = job.fine_tuned_model if of == "model" else checkpoint.fine_tuned_model_checkpoint
    guests = [service.team(team.organization_id) for _ in range(2)]
    guest = connect(guests[0].secret)
    with pytest.raises(openai.NotFoundError):
        guest.models.retrieve(name)

    permissions = client.fine_tuning.checkpoints.permissions
    made = permissions.create(name, project_ids=[each.project_id for each in guests]).data
    assert {each.project_id for each in made} == {each.project_id for each in guests}
    assert {each.object for each in made} == {"checkpoint.permission"}
    assert all(each.id.startswith("cp_") for each in made)
    assert {each.id for each in _listed(client, name)} == {each.id for each in made}
    (only,) = _listed(client, name, project_id=guests[0].project_id)
    assert only.project_id == guests[0].project_id
    assert guest.models.retrieve(name).id == name
    assert submit(guest, model=name).model == name

    deleted = permissions.delete(only.id, fine_tuned_model_checkpoint=name)
    assert (deleted.id, deleted.object, deleted.deleted) == (only.id, "checkpoint.permission", True)
    with pytest.raises(openai.NotFoundError):
        guest.models.retrieve(name)
    assert [each.project_id for each in _listed(client, name)] == [guests[1].project_id]


def test_permissions_are_for_admins(
    openai: Any, client: Any, connect: Connect, service: Service, team: Team
) -> None:
    name = run(client, steps=1).fine_tuned_model
    member = connect(service.key(team.project_id, "member"))
    with pytest.raises(openai.PermissionDeniedError):
        member.fine_tuning.checkpoints.permissions.create(name, project_ids=[team.project_id])


def test_permissions_come_in_pages(client: Any, service: Service, team: Team) -> None:
    name = run(client, steps=1).fine_tuned_model
    guests = [service.team(team.organization_id).project_id for _ in range(3)]
    permissions = client.fine_tuning.checkpoints.permissions
    for guest in guests:
        permissions.create(name, project_ids=[guest])
    if hasattr(permissions, "list"):
        listed = [each.project_id for each in permissions.list(name, limit=2, order="ascending")]
        assert listed == guests
        return
    page = permissions.retrieve(name, limit=2, order="ascending")
    assert page.has_more
    rest = permissions.retrieve(name, limit=2, order="ascending", after=page.last_id)
    assert [each.project_id for each in (*page.data, *rest.data)] == guests
