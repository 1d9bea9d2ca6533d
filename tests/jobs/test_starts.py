"""Going on from what was tuned here: what a name means, what is taken over, what a run loads."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from jobs.errors import InvalidRequest
from jobs.identity import Identity
from jobs.models import Checkpoint, Job, Model
from jobs.names import checkpoint_name, split_checkpoint_name
from jobs.requests import ModelRequest
from jobs.service import catalogue, claims, records
from jobs.service.claims import Claim, TrainAssignment
from jobs.service.endings import Ending, StoredArtifact
from jobs.states import JobStatus, RunOutcome
from tests.jobs.conftest import local_worlds
from tests.jobs.world import World, fence_of, offer
from training.config import TrainingConfig
from training.events import CheckpointSaved
from training.file_check import FileReport
from training.run_directory import FileEntry, Manifest

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
WHOLE = ("config.json", "model.safetensors", "tokenizer.json")
CARD = "README.md"
REST = (CARD, "manifest.json")
STATE = ("optimizer.pt", "rng_state.pth", "trainer_state.json", "ledger.json")
LORA: dict[str, Any] = {
    "adapter": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "lora_dropout": 0.1},
    "data": {"template": "chatml"},
}
FULL = {"adapter": {"type": "none"}}


@pytest.fixture
def world(sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    for world in local_worlds(sqlite_template, tmp_path):
        world.model()
        yield world


def submit(world: World, model: str, training: dict[str, Any] | None = None, **body: Any) -> Job:
    return world.submit(model=model, training_file=world.file().id, training=training or {}, **body)


def begin(world: World) -> Claim:
    claimed = world.claim(offer())
    assert claimed is not None
    return claimed


def checkpoint(world: World, claimed: Claim, step: int, members: tuple[str, ...]) -> None:
    entries = tuple(FileEntry(path=n, bytes=1, sha256=f"{n}@{step}") for n in (*members, *STATE))
    with world.db.writing() as session:
        records.record_checkpoint(
            session,
            fence_of(claimed),
            CheckpointSaved(step=step, name=f"checkpoint-{step}", bytes=1),
            key_prefix=f"jobs/{claimed.job_id}/attempt-1/checkpoint-{step}",
            manifest=Manifest(files=entries, step=step, attempt=1),
        )


def succeed(world: World, claimed: Claim, members: tuple[str, ...]) -> None:
    artifacts = tuple(
        StoredArtifact(f"adapter/{n}", f"jobs/{claimed.job_id}/{n}", 1, f"sha256 of {n}")
        for n in (*members, *REST)
    )
    archive = StoredArtifact("adapter.zip", f"jobs/{claimed.job_id}/adapter.zip", 1, "abc")
    world.finish(claimed, Ending(RunOutcome.SUCCEEDED, artifacts=(*artifacts, archive)))


def tuned(
    world: World,
    model: str = "tiny",
    training: dict[str, Any] | None = None,
    members: tuple[str, ...] = ADAPTER,
) -> Job:
    """A job that has ended well, with a checkpoint at step 2."""
    job = submit(world, model, training)
    claimed = begin(world)
    checkpoint(world, claimed, 2, members)
    succeed(world, claimed, members)
    return job


def assigned(world: World) -> TrainAssignment:
    claimed = begin(world)
    with world.db.writing() as session:
        assignment = claims.assignment(session, claimed)
    world.finish(claimed, RunOutcome.FAILED)
    assert isinstance(assignment, TrainAssignment)
    return assignment


def refused(world: World, model: str, training: dict[str, Any] | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        submit(world, model, training)
    return refusal.value


def test_names_of_checkpoints() -> None:
    name = checkpoint_name("ft:a/b:org::12345678", 40)
    assert name == "ft:a/b:org::12345678:ckpt-step-40"
    assert split_checkpoint_name(name) == ("ft:a/b:org::12345678", 40)
    for other in ("tiny", "ft:tiny:o:s:1", "ckpt-step-4", "ft:t:o:s:1:ckpt-step-", f"{name}x"):
        assert split_checkpoint_name(other) is None


def test_a_job_from_a_tuned_model_takes_its_adapter_over(world: World) -> None:
    parent = tuned(world, training=LORA)
    job = submit(world, parent.fine_tuned_model, suffix="more")
    assert (job.model, job.start_job_id) == (parent.fine_tuned_model, parent.id)
    assert job.start_checkpoint_id is None
    assert (job.model_id, job.model_sha256) == (parent.model_id, parent.model_sha256)
    assert job.fine_tuned_model == f"ft:tiny:local:more:{job.id[-8:]}"
    adapter = job.training["adapter"]
    assert adapter == parent.training["adapter"]
    assert (adapter["r"], adapter["lora_dropout"], adapter["target_modules"]) == (
        4,
        0.1,
        ["q_proj"],
    )
    assert job.training["data"]["template"] == "chatml"


def test_keys_that_agree_and_keys_that_may_change(world: World) -> None:
    parent = tuned(world, training=LORA)
    training = {
        "adapter": {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.3},
        "data": {"template": "alpaca"},
    }
    job = submit(world, parent.fine_tuned_model, training)
    assert job.training["adapter"]["lora_dropout"] == 0.3
    assert job.training["data"]["template"] == "alpaca"


ZOE = {"template": "vigogne_chat_v2", "default_system": "Tu es Zoé.", "add_bos_token": False}
LAYOUT = ZOE.keys()
PAIR = {"prompt": "a", "completion": "b"}


def layout(job: Job) -> dict[str, Any]:
    return {key: job.training["data"][key] for key in LAYOUT}


def data(**keys: Any) -> dict[str, Any]:
    return {"data": keys}


def test_the_layout_is_taken_over_key_by_key(world: World) -> None:
    adapter = tuned(world, training=data(**ZOE))
    whole = tuned(world, training={**data(**ZOE), **FULL}, members=WHOLE)
    for name in (adapter.fine_tuned_model, whole.fine_tuned_model):
        assert layout(submit(world, name)) == ZOE
        for own in (
            {"template": "vigogne_chat_v3"},
            {"default_system": "Sois bref."},
            {"default_system": None},
            {"add_bos_token": None},
            {**ZOE, "default_system": "", "template": "chatml"},
        ):
            assert layout(submit(world, name, data(**own))) == {**ZOE, **own}


def test_a_template_that_a_whole_model_brings_has_its_system_message(world: World) -> None:
    mine = data(default_system="Be kind.")
    adapter = tuned(world, training=mine).fine_tuned_model
    whole = tuned(world, training={**mine, **FULL}, members=WHOLE).fine_tuned_model
    assert layout(submit(world, adapter))["default_system"] == "Be kind."
    assert layout(submit(world, whole))["default_system"] is None
    named = submit(world, whole, data(template="chatml"))
    assert layout(named)["default_system"] == "Be kind."


def test_what_is_taken_over_but_not_for_such_rows_is_left_out(world: World) -> None:
    parent = tuned(world, training=data(**ZOE)).fine_tuned_model
    pairs = world.file([PAIR]).id
    of_pairs = {"template": "auto", "default_system": None, "add_bos_token": False}
    assert layout(world.submit(model=parent, training_file=pairs)) == of_pairs
    with pytest.raises(InvalidRequest, match="stand as they are"):
        world.submit(model=parent, training_file=pairs, training=data(template="chatml"))
    own = submit(world, parent, data(template="auto"))
    assert layout(own) == {**ZOE, "template": "auto", "add_bos_token": None}


def test_what_is_taken_over_waits_for_the_rows(world: World) -> None:
    parent = tuned(world, training=data(**ZOE)).fine_tuned_model
    file = world.unchecked()
    job = world.submit(model=parent, training_file=file.id)
    assert layout(job) == ZOE
    claimed = begin(world)
    assert claimed.file_id == file.id
    report = FileReport("prompt_completion", 40, 0, (), {}, {}, "csv")
    world.finish(claimed, Ending(RunOutcome.SUCCEEDED, report=report))
    settled = world.job(job.id)
    assert settled.status == JobStatus.QUEUED
    assert layout(settled) == {"template": "auto", "default_system": None, "add_bos_token": False}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", 8, r"8, but 'ft:tiny:local::\w+' has 4"),
        ("lora_alpha", 16, r"16\.0, but .* has 8\.0"),
        ("target_modules", "all-linear", "'all-linear', but .*'q_proj'"),
        ("modules_to_save", ["lm_head"], "'lm_head'.*leave the key out, or name the base model"),
        ("use_dora", True, "True, but .* has False"),
        ("init_lora_weights", "pissa", "'pissa', but .* has True"),
        ("rank_pattern", {"q_proj": 2}, r"\{'q_proj': 2\}, but .* has \{\}"),
    ],
)
def test_another_adapter_is_refused(world: World, key: str, value: Any, message: str) -> None:
    error = refused(world, tuned(world, training=LORA).fine_tuned_model, {"adapter": {key: value}})
    assert (error.param, error.code) == (f"training.adapter.{key}", "adapter_mismatch")
    assert re.search(message, str(error))


QUANTIZED = {"model": {"quantization": {"bits": 4}}}


@pytest.mark.parametrize(
    ("before", "asked", "param"),
    [
        ({"adapter": {"use_dora": True}}, {"model": {"quantization": {"bits": 8}}}, "use_dora"),
        ({"adapter": {"init_lora_weights": "pissa"}}, QUANTIZED, "init_lora_weights"),
        ({"adapter": {"init_lora_weights": "loftq"}, **QUANTIZED}, {}, "init_lora_weights"),
        (
            {"adapter": {"init_lora_weights": "mica"}},
            {"adapter": {"loraplus_lr_ratio": 4}},
            "loraplus_lr_ratio",
        ),
    ],
)
def test_what_does_not_fit_what_is_gone_on_from_is_refused(
    world: World, before: dict[str, Any], asked: dict[str, Any], param: str
) -> None:
    name = tuned(world, training=before).fine_tuned_model
    error = refused(world, name, asked)
    assert str(error).endswith(f"(with what comes from {name!r})")
    assert error.param == f"training.adapter.{param}"


def test_an_adapter_of_another_kind_goes_on_as_what_it_is(world: World) -> None:
    keys = {"use_dora": True, "init_lora_weights": "pissa", "rank_pattern": {"q_proj": 2}}
    parent = tuned(world, training={"adapter": {"r": 4, "loraplus_lr_ratio": 8, **keys}})
    job = submit(world, parent.fine_tuned_model, {"adapter": {"loraplus_lr_ratio": 2}})
    assert job.training["adapter"] == {**parent.training["adapter"], "loraplus_lr_ratio": 2}
    assert keys.items() <= job.training["adapter"].items()


def test_the_tokens_of_an_adapter_go_with_it(world: World) -> None:
    tokens = {"add_tokens": ["<a>"], "add_special_tokens": {"pad_token": "<pad>"}}
    whole = tuned(world, training={**FULL, "model": tokens}, members=WHOLE).fine_tuned_model
    name = tuned(world, training={"model": {**tokens, "dtype": "float32"}}).fine_tuned_model
    job = submit(world, name, {"model": {"add_tokens": ["<a>"]}})
    assert tokens.items() <= job.training["model"].items()
    assert job.training["model"]["dtype"] == "bfloat16"
    error = refused(world, name, {"model": {"add_tokens": ["<a>", "<b>"]}})
    assert (error.param, error.code) == ("training.model.add_tokens", "adapter_mismatch")
    assert submit(world, whole).training["model"]["add_tokens"] == []


def test_an_adapter_is_not_trained_whole(world: World) -> None:
    error = refused(world, tuned(world).fine_tuned_model, FULL)
    assert error.param == "training.adapter.type"


def test_the_run_loads_the_adapter(world: World) -> None:
    parent = tuned(world)
    submit(world, parent.fine_tuned_model)
    weights = assigned(world).tuned
    assert weights.whole is None
    assert weights.adapter is not None
    assert weights.adapter.name == parent.fine_tuned_model
    assert [(f.path, f.key, f.sha256) for f in weights.adapter.files] == [
        (n, f"jobs/{parent.id}/{n}", f"sha256 of {n}") for n in (CARD, *ADAPTER)
    ]


def test_the_run_loads_the_adapter_of_a_checkpoint(world: World) -> None:
    parent = tuned(world)
    job = submit(world, f"{parent.fine_tuned_model}:ckpt-step-2")
    (stored,) = [c for c in world.all(Checkpoint) if c.job_id == parent.id]
    assert (job.start_job_id, job.start_checkpoint_id) == (parent.id, stored.id)
    weights = assigned(world).tuned.adapter
    assert weights is not None
    assert weights.name == f"{parent.fine_tuned_model}:ckpt-step-2"
    assert [(f.path, f.key, f.sha256) for f in weights.files] == [
        (n, f"{stored.key_prefix}/{n}", f"{n}@2") for n in ADAPTER
    ]


def test_a_checkpoint_of_a_job_that_failed_is_a_start(world: World) -> None:
    parent = submit(world, "tiny")
    claimed = begin(world)
    checkpoint(world, claimed, 2, ADAPTER)
    world.finish(claimed, RunOutcome.FAILED)
    assert submit(world, f"{parent.fine_tuned_model}:ckpt-step-2").start_job_id == parent.id
    assert refused(world, parent.fine_tuned_model).code == "model_not_found"


def test_a_plain_job_loads_nothing_beside_its_base(world: World) -> None:
    submit(world, "tiny")
    weights = assigned(world).tuned
    assert (weights.whole, weights.adapter) == (None, None)


def test_adapters_over_a_model_that_was_trained_whole(world: World) -> None:
    """Over the adapter another one, and one over that: the run needs the first and the last."""
    whole = tuned(world, training=FULL, members=WHOLE)
    first = tuned(world, whole.fine_tuned_model, LORA)
    second = tuned(world, first.fine_tuned_model)
    submit(world, second.fine_tuned_model)
    weights = assigned(world).tuned
    assert weights.whole is not None
    assert weights.adapter is not None
    assert weights.whole.name == whole.fine_tuned_model
    assert [f.path for f in weights.whole.files] == [CARD, *WHOLE]
    assert weights.adapter.name == second.fine_tuned_model
    submit(world, whole.fine_tuned_model, FULL)
    weights = assigned(world).tuned
    assert weights.whole is not None
    assert (weights.whole.name, weights.adapter) == (whole.fine_tuned_model, None)


def test_full_fine_tuning_is_never_fallen_into(world: World) -> None:
    whole = tuned(world, training=FULL, members=WHOLE)
    assert submit(world, whole.fine_tuned_model).training["adapter"]["type"] == "lora"


def test_starts_that_do_not_exist(world: World) -> None:
    parent = tuned(world)
    open_job = submit(world, parent.fine_tuned_model)
    before = len(world.all(Job))
    stranger = world.stranger()
    theirs = world.file(identity=stranger).id
    for name in (parent.fine_tuned_model, f"{parent.fine_tuned_model}:ckpt-step-2"):
        with pytest.raises(InvalidRequest) as refusal:
            world.submit(identity=stranger, model=name, training_file=theirs)
        assert (refusal.value.param, refusal.value.code) == ("model", "model_not_found")
    remove(world, world.me, parent.fine_tuned_model)
    for name in (
        parent.fine_tuned_model,
        open_job.fine_tuned_model,
        f"{parent.fine_tuned_model}:ckpt-step-3",
        f"{parent.fine_tuned_model}:ckpt-step-{10**17}",
    ):
        error = refused(world, name)
        assert (error.param, error.code) == ("model", "model_not_found")
        assert repr(name) in str(error)
    assert len(world.all(Job)) == before


def test_only_models_that_are_ready_are_offered(world: World) -> None:
    parent = tuned(world)
    for name in ("unread", "broken"):
        with world.db.writing() as session:
            model = catalogue.add(session, world.me, ModelRequest(name=name, source=f"/m/{name}"))
            model.status = "error" if name == "broken" else model.status
    assert str(refused(world, "nothing")).endswith("the catalogue has 'tiny'")
    remove(world, world.me, parent.fine_tuned_model)
    remove(world, world.me, "tiny")
    assert "the catalogue has none that is ready" in str(refused(world, "nothing"))


def test_a_start_is_kept_for_the_job_that_needs_it(world: World) -> None:
    parent = tuned(world)
    submit(world, parent.fine_tuned_model)
    remove(world, world.me, parent.fine_tuned_model)
    weights = assigned(world).tuned.adapter
    assert weights is not None
    assert weights.name == parent.fine_tuned_model


def test_a_base_model_that_was_removed_ends_what_was_tuned_of_it(world: World) -> None:
    parent = tuned(world)
    remove(world, world.me, "tiny")
    error = refused(world, parent.fine_tuned_model)
    assert error.code == "model_not_found"
    assert "'tiny', which is not in the catalogue any more" in str(error)


def remove(world: World, identity: Identity, name: str) -> Model | Checkpoint:
    with world.db.writing() as session:
        return catalogue.remove(session, identity, name)


def test_a_job_is_read_by_the_rules_of_its_day(world: World) -> None:
    """Keys that are refused together today may have been taken when it came."""
    parent = tuned(world, training=LORA)
    with world.db.writing() as session:
        job = session.get_one(Job, parent.id)
        job.training = {
            **job.training,
            "optimization": {**job.training["optimization"], "optim": "sgd", "adam_beta1": 0.5},
        }
    child = submit(world, parent.fine_tuned_model)
    assert child.training["adapter"] == parent.training["adapter"]
    with pytest.raises(ValidationError, match="does not go by adam_beta1"):
        TrainingConfig.model_validate(job.training)
    assert TrainingConfig.kept(job.training).optimization.optim == "sgd"


def test_a_token_that_was_added_before_is_there(world: World) -> None:
    """The base has no beginning of sequence; the model that was trained whole on it has."""
    with world.db.writing() as session:
        model = session.scalars(select(Model).where(Model.name == "tiny")).one()
        model.facts = {**(model.facts or {}), "has_bos_token": False}
    begins = {"data": {"template": "chatml", "add_bos_token": True}}
    error = refused(world, "tiny", begins)
    assert error.param == "training.data.add_bos_token"
    added = {"model": {"add_special_tokens": {"bos_token": "<s>"}}}
    parent = tuned(world, training={**FULL, **begins, **added}, members=WHOLE)
    job = submit(world, parent.fine_tuned_model, FULL)
    assert job.training["data"]["add_bos_token"] is True
