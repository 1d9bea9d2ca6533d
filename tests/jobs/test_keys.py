"""API keys: shown once, kept as a hash, dead at once when revoked."""

import re

import pytest
from sqlalchemy import text

from jobs.errors import Conflict, Forbidden, NotFound, Unauthenticated
from jobs.identity import Identity
from jobs.models import Base, Project
from jobs.service import keys
from tests.jobs.world import World


def _dump(world: World) -> str:
    """Every value of every table."""
    with world.db.reading() as session:
        tables = Base.metadata.sorted_tables
        rows = [list(session.execute(text(f"SELECT * FROM {table.name}"))) for table in tables]
    return repr(rows)


def _authenticate(world: World, secret: str) -> Identity:
    with world.db.reading() as session:
        return keys.authenticate(session, secret)


def test_only_a_hash_is_kept(world: World):
    with world.db.writing() as session:
        key, secret = keys.create(session, world.me, name="ci", role="member")
    dump = _dump(world)
    for known in (secret, world.secret):
        assert known.removeprefix("sk-tunesmith-") not in dump
        assert len(known) >= len("sk-tunesmith-") + 22  # 128 bits
    assert key.sha256 in dump
    assert key.last4 == secret[-4:]


def test_a_secret_is_its_identity(world: World):
    assert world.me.role == "admin"
    with world.db.writing() as session:
        key, secret = keys.create(session, world.me, name="ci", role="member")
    identity = _authenticate(world, secret)
    assert identity == Identity(key.id, world.me.project_id, "local", "member")


@pytest.mark.parametrize("secret", ["", "sk-tunesmith-", "sk-tunesmith-\0", "\ud800", "x" * 10_000])
def test_what_is_no_key(world: World, secret: str):
    with pytest.raises(Unauthenticated):
        _authenticate(world, secret)


def test_a_hash_is_no_secret(world: World):
    (digest,) = set(re.findall(r"[0-9a-f]{64}", _dump(world)))
    with pytest.raises(Unauthenticated):
        _authenticate(world, digest)


def test_a_revoked_key_is_dead_at_once(world: World):
    with world.db.writing() as session:
        key, secret = keys.create(session, world.me, name="ci", role="admin")
    _authenticate(world, secret)
    with world.db.writing() as session:
        keys.revoke(session, world.me, key.id)
    with pytest.raises(Unauthenticated):
        _authenticate(world, secret)
    with world.db.writing() as session:
        first = keys.revoke(session, world.me, key.id).revoked_at
        assert keys.revoke(session, world.me, key.id).revoked_at == first
        assert [one.id for one in keys.list_keys(session, world.me)] == [world.me.key_id]


def test_the_last_admin_key_stays(world: World):
    member = world.member()
    with pytest.raises(Conflict, match="last admin key"), world.db.writing() as session:
        keys.revoke(session, world.me, world.me.key_id)
    with world.db.writing() as session:
        keys.revoke(session, world.me, member.key_id)
        keys.create(session, world.me, name="second", role="admin")
        keys.revoke(session, world.me, world.me.key_id)


def test_keys_are_an_admins_and_a_projects_matter(world: World):
    member, stranger = world.member(), world.stranger()
    with world.db.writing() as session:
        for act in (
            lambda: keys.create(session, member, name="x", role="admin"),
            lambda: keys.list_keys(session, member),
            lambda: keys.revoke(session, member, member.key_id),
        ):
            with pytest.raises(Forbidden):
                act()
        with pytest.raises(NotFound):
            keys.revoke(session, stranger, world.me.key_id)
        assert [key.id for key in keys.list_keys(session, stranger)] == [stranger.key_id]


def test_a_second_start_makes_no_key(world: World):
    with world.db.writing() as session:
        assert keys.bootstrap(session, world.settings) is None
    assert len(world.all(Project)) == 1
