"""Exports by the verbs: asked for once, made by runs, cancelled, lost, deleted and cleared away."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound
from jobs.models import Checkpoint, Event, Export, Model, Run
from jobs.rescue import Rescue
from jobs.service import catalogue, claims, endings, exports, records
from jobs.service.export_runs import Made
from jobs.service.exports import HUB
from jobs.service.records import Fenced
from jobs.states import ExportStatus, RunKind, RunOutcome
from tests.jobs.exporting import FILE, PUSHED, Desk
from tests.jobs.test_concurrency import at_once
from tests.jobs.test_rescue import Bells
from tests.jobs.world import FACTS, World, fence_of, offer
from training.events import Message, Progress
from training.export_config import ExportConfig

S, O = ExportStatus, RunOutcome  # noqa: E741 - the tables below are read more easily


@pytest.fixture
def desk(local_world: World) -> Desk:
    """A job that has succeeded."""
    local_world.model()
    return Desk(local_world)


def provide(world: World, *abilities: str) -> None:
    """A worker is seen, which can do this."""
    with world.db.writing() as session:
        claims.register(session, offer("seen", provides=",".join(abilities)))


def test_the_whole_way(world: World) -> None:
    world.model()
    desk = Desk(world)
    export = desk.ask(dtype="float16")
    assert (export.status, export.phase) == (S.QUEUED, None)
    claimed = desk.claim()
    assert (claimed.export_id, claimed.job_id, claimed.attempt) == (export.id, None, 1)
    plan = desk.plan(claimed)
    assert plan.config == ExportConfig(kind="merged", dtype="float16")
    assert (plan.name, plan.step) == (desk.job.fine_tuned_model, None)
    assert plan.formats == ("messages",)
    with world.db.writing() as session:
        events = [Progress(phase="merging"), Message(message="half of it")]
        records.record(session, fence_of(claimed), events, relayed_bytes=9, settings=world.settings)
        records.record_log(session, fence_of(claimed), "a line\n", log_bytes=7)
    assert (desk.now(export).status, desk.now(export).phase) == (S.RUNNING, "merging")
    assert desk.finish(claimed) == S.SUCCEEDED
    assert (desk.now(export).status, desk.now(export).phase) == (S.SUCCEEDED, None)
    stored = desk.do("content", export)
    assert (stored.filename, stored.bytes) == ("merged.zip", len(FILE))
    with world.store.open(stored.key) as file:
        assert file.read() == FILE
    told = [e.message for e in world.all(Event) if e.stream_id == export.id]
    assert told == ["half of it", "a line\n"]
    assert world.claim(offer()) is None


def test_only_what_is_there_can_be_exported(local_world: World) -> None:
    local_world.model()
    desk = Desk(local_world, succeeded=False)
    with pytest.raises(Conflict, match="running and has no result") as caught:
        desk.ask()
    assert (caught.value.code, caught.value.param) == ("no_result", "checkpoint")
    local_world.note_checkpoint(desk.training, step=3)
    (checkpoint,) = local_world.all(Checkpoint)
    with pytest.raises(NotFound):
        desk.ask(checkpoint="ftckpt_none")
    desk.ask(checkpoint=checkpoint.id)
    plan = desk.plan(desk.claim())
    assert (plan.step, plan.name) == (3, f"{desk.job.fine_tuned_model}:ckpt-step-3")
    assert plan.weights.adapter is not None
    assert plan.weights.adapter.name == plan.name


def test_the_same_twice_is_one_export(desk: Desk) -> None:
    first = desk.ask("gguf")
    assert desk.ask("gguf", outtype="f16").id == first.id  # the default, spelled out
    assert desk.ask("gguf", outtype="q8_0").id != first.id
    desk.finish(desk.claim())
    assert desk.ask("gguf").id == first.id
    desk.do("delete", first)
    again = desk.ask("gguf")
    assert again.id != first.id
    desk.do("cancel", again)
    assert desk.ask("gguf").id not in {first.id, again.id}


def test_many_equal_requests_at_once_are_one_export(world: World) -> None:
    world.model()
    desk = Desk(world)
    found = at_once(lambda _: desk.ask().id, range(6))
    assert len(set(found)) == 1
    assert len(world.all(Export)) == 1


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an adapter of all weights": (
        {"kind": "adapter"},
        {"training": {"adapter": {"type": "none"}}},
        "no_adapter",
    ),
    "pushed, too": (
        {"kind": "hub", "repo_id": "a/b"},
        {"training": {"adapter": {"type": "none"}}},
        "no_adapter",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_trained_decides_what_can_be_made(local_world: World, case: str) -> None:
    asked, body, code = REFUSED[case]
    local_world.model()
    desk = Desk(local_world, **body)
    with pytest.raises(InvalidRequest) as caught:
        desk.ask(**asked)
    assert caught.value.code == code
    desk.ask("merged")


def test_a_gguf_file_is_made_of_known_architectures(local_world: World) -> None:
    local_world.model("other", FACTS.model_copy(update={"architecture": "GPT2LMHeadModel"}))
    desk = Desk(local_world, model="other")
    with pytest.raises(InvalidRequest, match="GPT2LMHeadModel, only of LlamaForCausalLM") as caught:
        desk.ask("gguf")
    assert (caught.value.code, caught.value.param) == ("unsupported_architecture", "kind")
    with pytest.raises(InvalidRequest) as caught:
        desk.ask("hub", repo_id="a/b", content="gguf")
    assert caught.value.param == "content"


def test_a_push_is_an_admins_and_needs_a_worker_with_a_token(desk: Desk) -> None:
    world, asked = desk.world, {"kind": "hub", "repo_id": "acme/x"}
    with pytest.raises(Forbidden):
        desk.ask(**asked, identity=world.member())
    provide(world, "cuda")
    with pytest.raises(Conflict, match="TUNESMITH_HUB_PUSH_TOKEN") as caught:
        desk.ask(**asked)
    assert caught.value.code == "no_hub_worker"
    assert world.all(Export) == []
    provide(world, HUB)
    export = desk.ask(**asked)
    assert world.claim(offer("without")) is None
    claimed = desk.claim("with", provides=HUB)
    desk.finish(claimed, made=Made(pushed=PUSHED))
    done = desk.now(export)
    assert (done.status, done.pushed) == (S.SUCCEEDED, PUSHED.model_dump())
    with pytest.raises(NotFound, match="was pushed to https://hub/acme/x"):
        desk.do("content", export)


def test_a_push_waits_where_no_worker_was_seen(desk: Desk) -> None:
    assert desk.ask("hub", repo_id="acme/x").status == S.QUEUED


def test_a_small_model_is_exported_beside_a_training(desk: Desk) -> None:
    world = desk.world
    desk.ask()
    job = world.submit(training_file=world.file().id)
    first, second = world.claim(offer()), world.claim(offer())
    assert first is not None
    assert second is not None
    assert {first.kind: first.slot, second.kind: second.slot} == {
        RunKind.EXPORT: "light",
        RunKind.TRAIN: "cpu",
    }
    assert second.job_id == job.id


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_large_model_needs_the_cpu(local_world: World, gpus: int) -> None:
    """Where there are no GPUs that is where jobs are trained; else nobody else needs it."""
    local_world.model("large", FACTS.model_copy(update={"bytes": 5 << 30}))
    desk = Desk(local_world, model="large")
    desk.ask()
    desk.ask("adapter")
    job = local_world.submit(model="large", training_file=local_world.file().id)
    claimed = [local_world.claim(offer(gpus=gpus)) for _ in range(3)]
    found = [(each.kind, each.slot) for each in claimed if each is not None]
    exported = [(RunKind.EXPORT, "cpu"), (RunKind.EXPORT, "light")]
    assert found == exported + ([(RunKind.TRAIN, "gpu")] if gpus else [])
    if not gpus:
        assert claimed[0] is not None
        desk.finish(claimed[0])
        trained = local_world.claim(offer())
        assert trained is not None
        assert trained.job_id == job.id


def test_a_cancelled_export_is_over_at_once(desk: Desk) -> None:
    waiting = desk.ask()
    assert desk.do("cancel", waiting).export.status == S.CANCELLED
    assert desk.world.claim(offer()) is None

    running = desk.ask()
    claimed = desk.claim()
    with desk.world.db.reading() as session:
        assert not records.orders(session, fence_of(claimed)).cancelled
    for _ in range(2):
        assert desk.do("cancel", running).export.status == S.CANCELLED
    with desk.world.db.reading() as session:
        assert records.orders(session, fence_of(claimed)).cancelled
    assert desk.world.claim(offer()) is None  # its run holds the slot
    assert desk.finish(claimed) is None
    assert desk.now(running).status == S.CANCELLED
    assert desk.world.run(claimed.run_id).outcome == O.CANCELLED
    with pytest.raises(NotFound, match="status is cancelled"):
        desk.do("content", running)


def test_what_has_ended_is_not_cancelled(desk: Desk) -> None:
    export = desk.ask()
    desk.finish(desk.claim())
    with pytest.raises(Conflict) as caught:
        desk.do("cancel", export)
    assert caught.value.code == "export_finished"


def test_a_cancel_against_the_end_of_the_run(world: World) -> None:
    world.model()
    desk = Desk(world)

    def act(what: str) -> object:
        try:
            if what == "cancel":
                return desk.do("cancel", export).export.status
            return desk.finish(claimed)
        except Conflict as conflict:
            return conflict.code

    for turn in range(8):
        export = desk.ask(max_shard_size=f"{turn + 1}GB")
        claimed = desk.claim()
        cancelled, finished = at_once(act, ("cancel", "finish"))
        ended = desk.now(export)
        if ended.status == S.SUCCEEDED:
            assert (cancelled, finished) == ("export_finished", S.SUCCEEDED)
            assert ended.artifact_key is not None
        else:
            assert (cancelled, finished, ended.status) == (S.CANCELLED, None, S.CANCELLED)
            assert ended.artifact_key is None


def test_a_cancel_against_a_claim(world: World) -> None:
    world.model()
    desk = Desk(world)
    for turn in range(8):
        export = desk.ask(max_shard_size=f"{turn + 1}GB")
        todo: list[Callable[[], Any]] = [
            partial(desk.do, "cancel", export),
            partial(world.claim, offer()),
        ]
        _, claimed = at_once(lambda do: do(), todo)
        assert desk.now(export).status == S.CANCELLED
        if claimed is not None:
            desk.finish(claimed)
        assert world.claim(offer()) is None


def test_a_lost_run_is_made_again_and_writes_nothing_more(world: World) -> None:
    world.model()
    desk = Desk(world)
    export = desk.ask()
    lost = desk.claim()
    stored = desk.store(lost)
    assert world.lose(lost)
    assert desk.now(export).status == S.QUEUED
    again = desk.claim("w2")
    assert again.attempt == 2
    with pytest.raises(Fenced):
        desk.finish(lost, made=stored)
    assert desk.finish(again) == S.SUCCEEDED
    assert desk.now(export).artifact_key == f"exports/{export.id}/attempt-2/merged.zip"


@pytest.mark.parametrize(
    ("outcome", "times"), [(O.CRASHED, 3), (O.LOST, 20), (O.INTERRUPTED, 20), (O.FAILED, 1)]
)
def test_how_often_it_is_tried(desk: Desk, outcome: RunOutcome, times: int) -> None:
    export = desk.ask()
    for _ in range(times - 1):
        assert desk.finish(desk.claim(), outcome) == S.QUEUED
    assert desk.finish(desk.claim(), outcome) == S.FAILED
    ended = desk.now(export)
    assert ended.error is not None
    assert (ended.error["code"], ended.error["remedy"]) == ("bad", "mend it")
    assert ended.finished_at is not None
    assert desk.ask().id != export.id  # a failed one is not the answer to the next request


def test_a_worker_that_starts_again_has_lost_its_exports(desk: Desk) -> None:
    export = desk.ask()
    claimed = desk.claim("w1")
    with desk.world.db.writing() as session:
        ended = endings.abandon(session, "w1", desk.world.settings)
    assert ended == [claimed.run_id]
    assert desk.now(export).status == S.QUEUED


def sweep(world: World, bells: Bells | None = None) -> None:
    Rescue(world.db, world.settings, bells or Bells(), world.store).sweep()  # type: ignore[arg-type]


def test_a_waiting_export_is_rung_for(desk: Desk) -> None:
    bells = Bells()
    sweep(desk.world, bells)
    assert bells.pools == []
    desk.ask()
    sweep(desk.world, bells)
    assert bells.pools == ["default"]


def age(world: World, model: type[Any], **columns: float) -> None:
    """As if the rows had been changed long ago."""
    for row in world.all(model):
        changed = {k: v for k, v in columns.items() if getattr(row, k) is not None}
        if changed:
            world.change(model, row.id, **changed)


def test_a_checkpoint_stays_until_what_is_made_of_it_is_done(local_world: World) -> None:
    world = local_world
    world.model()
    desk = Desk(world, succeeded=False, training={"checkpoints": {"keep": 1}})
    prefix = f"jobs/{desk.job.id}/attempt-1/checkpoint-3"
    world.note_checkpoint(desk.training, step=3)
    with world.store.create(f"{prefix}/adapter_model.safetensors") as writer:
        writer.write(b"weights")
        writer.commit()
    (checkpoint,) = world.all(Checkpoint)
    export = desk.ask(checkpoint=checkpoint.id)
    world.note_checkpoint(desk.training, step=6)  # hides the one before it
    age(world, Checkpoint, deleted_at=1.0)
    sweep(world)
    assert list(world.store.keys(f"{prefix}/"))
    with pytest.raises(NotFound):  # but no other export may begin with it
        desk.ask("adapter", checkpoint=checkpoint.id)
    desk.finish(desk.claim())
    sweep(world)
    assert not list(world.store.keys(f"{prefix}/"))
    assert desk.do("content", export).bytes == len(FILE)


def test_a_deleted_export_is_gone_and_so_are_its_bytes(desk: Desk) -> None:
    world = desk.world
    export = desk.ask()
    with pytest.raises(Conflict, match="queued; cancel it first"):
        desk.do("delete", export)
    claimed = desk.claim()
    with pytest.raises(Conflict, match="running; cancel it first"):
        desk.do("delete", export)
    desk.finish(claimed)
    key = desk.now(export).artifact_key
    sweep(world)
    assert list(world.store.keys(f"exports/{export.id}/")) == [key]
    desk.do("delete", export)
    for verb in ("get", "content", "cancel", "delete"):
        with pytest.raises(NotFound):
            desk.do(verb, export)
    sweep(world)
    assert not list(world.store.keys(f"exports/{export.id}/"))


def test_what_lost_runs_have_stored_is_cleared_away(desk: Desk) -> None:
    world = desk.world
    export = desk.ask()
    lost = desk.claim()
    left = desk.store(lost).artifact_key
    world.lose(lost)
    desk.finish(desk.claim())
    kept = desk.now(export).artifact_key
    age(world, Run, ended_at=1.0)
    sweep(world)
    assert list(world.store.keys(f"exports/{export.id}/")) == [kept]
    assert left != kept
    assert {run.cleaned_at is None for run in world.all(Run) if run.export_id} == {False}


def test_exports_of_another_project_do_not_exist(desk: Desk) -> None:
    export = desk.ask()
    stranger = desk.world.stranger()
    for verb in ("get", "content", "cancel", "delete"):
        with pytest.raises(NotFound, match="no fine-tuning job"):
            desk.do(verb, export, stranger)
    with pytest.raises(NotFound):
        desk.ask(identity=stranger)
    with desk.world.db.reading() as session, pytest.raises(NotFound):
        exports.list_exports(session, stranger, desk.job.id, after=None, limit=9)
    other = Desk(desk.world)
    with pytest.raises(NotFound, match="no export"):
        other.do("get", export)


def test_the_base_model_stays_while_it_is_needed(desk: Desk) -> None:
    world = desk.world
    desk.ask()
    with world.db.writing() as session, pytest.raises(Conflict, match="in use by export"):
        catalogue.remove(session, world.me, "tiny")
    desk.finish(desk.claim())
    with world.db.writing() as session:
        catalogue.remove(session, world.me, "tiny")
    with pytest.raises(Conflict) as caught:
        desk.ask("gguf")
    assert caught.value.code == "base_model_removed"
    assert [m.removed_at is None for m in world.all(Model) if m.name == "tiny"] == [False]


def test_pages_of_a_list(desk: Desk) -> None:
    made = [desk.ask(max_shard_size=f"{number}GB") for number in range(1, 6)]
    for number, export in enumerate(made):
        desk.world.change(Export, export.id, created_at=float(number))
    desk.do("cancel", made[0])
    desk.do("delete", made[0])

    def page(after: str | None) -> tuple[list[str], bool]:
        with desk.world.db.reading() as session:
            found = exports.list_exports(session, desk.world.me, desk.job.id, after=after, limit=2)
        return [item.export.id for item in found.items], found.has_more

    newest_first = [export.id for export in made[:0:-1]]
    assert page(None) == (newest_first[:2], True)
    assert page(newest_first[1]) == (newest_first[2:], False)
    with pytest.raises(InvalidRequest):
        page("ftexport-none")
