"""What is on its way to webhooks, shared by several senders, on both databases."""

from sqlalchemy import text

from jobs.database import now
from jobs.models import WebhookDelivery, WebhookEndpoint
from jobs.service import webhooks
from jobs.service.webhooks import LEASE_SECONDS, Parcel
from jobs.states import JobStatus
from tests.jobs.test_concurrency import at_once
from tests.jobs.world import World

SENDERS = 8


def _due(world: World, count: int) -> set[str]:
    """Deliveries of one ended job to so many endpoints, all due."""
    world.model()
    job = world.submit(training_file=world.file().id)
    with world.db.writing() as session:
        for number in range(count):
            webhooks.create(
                session,
                world.me,
                name=str(number),
                url="https://example.com",
                event_types=[webhooks.EVENT_TYPES[JobStatus.CANCELLED]],
            )
    world.cancel(job)
    return {delivery.id for delivery in world.all(WebhookDelivery)}


def _take(world: World, limit: int) -> list[Parcel]:
    with world.db.writing() as session:
        return webhooks.take(session, limit)


def test_senders_share_what_is_due_and_none_is_sent_twice(world: World):
    due = _due(world, 40)

    def take_all(_: int) -> list[Parcel]:
        taken: list[Parcel] = []
        while parcels := _take(world, 3):
            taken += parcels
        return taken

    taken = [parcel.delivery_id for each in at_once(take_all, range(SENDERS)) for parcel in each]
    assert sorted(taken) == sorted(due)
    assert not _take(world, 40)


def test_two_senders_at_once_do_not_wait_for_each_other_on_a_server(world: World):
    """What another transaction has locked is passed over; SQLite has one writer anyway."""
    due = _due(world, 4)
    if world.db.is_sqlite:
        first, second = _take(world, 2), _take(world, 4)
    else:
        with world.db.writing() as session, world.db.writing() as other:
            first = webhooks.take(session, 2)
            other.execute(text("SET LOCAL lock_timeout = '2s'"))
            second = webhooks.take(other, 4)
    assert {parcel.delivery_id for parcel in (*first, *second)} == due
    assert len(first) == len(second) == 2


def test_what_a_dead_sender_had_is_due_again_after_its_lease(world: World):
    (lost,) = _due(world, 1)
    (parcel,) = _take(world, 1)
    assert not _take(world, 1)
    with world.db.writing() as session:
        session.get_one(WebhookDelivery, lost).next_attempt_at = now(session)
    (again,) = _take(world, 1)
    assert (again.delivery_id, again.attempt) == (lost, 2)
    with world.db.writing() as session:  # the first sender was only slow
        webhooks.settle(session, parcel, world.settings, status=200, problem=None)
    (kept,) = world.all(WebhookDelivery)
    assert kept.delivered_at is None
    assert kept.next_attempt_at > kept.created_at + LEASE_SECONDS - 1


def test_nothing_goes_to_an_endpoint_that_was_removed_while_the_job_ended(world: World):
    _due(world, 1)
    (endpoint,) = world.all(WebhookEndpoint)
    world.change(WebhookEndpoint, endpoint.id, deleted_at=1.0)
    assert not _take(world, 1)
    (kept,) = world.all(WebhookDelivery)
    assert kept.next_attempt_at is None
