"""What a job may ask for: every refusal by field, and what the server fills in."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.errors import InvalidRequest
from jobs.models import Event, Job, JobFile, Model
from jobs.requests import ModelRequest
from jobs.service import catalogue, files, specs
from tests.jobs.conftest import local_worlds
from tests.jobs.world import CHAT_ROW, FACTS, INSTRUCT_ROW, World
from training.data_config import DataConfig

HYPER = "method.supervised.hyperparameters"


@pytest.fixture(scope="module")
def ready(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One deployment for all: a refusal leaves no trace, and each test looks at its own jobs."""
    for world in local_worlds(sqlite_template, tmp_path_factory.mktemp("submission")):
        world.model()
        yield world


@pytest.fixture(scope="module")
def chat(ready: World) -> str:
    return ready.file().id


def _method(**hyperparameters):
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def _optimization(**values):
    return {"optimization": values}


REFUSED = {
    "unknown model": ({"model": "nope"}, "model", r"'nope'.*'tiny'"),
    "no such file": ({"training_file": "file-0"}, "training_file", r"'file-0'.*POST /v1/files"),
    "no such validation file": ({"validation_file": "file-0"}, "validation_file", "file-0"),
    "too long": (
        {"training": {"data": {"max_length": 129}}},
        "training.data.max_length",
        r"129.*128 or less",
    ),
    "the best of nothing": (
        {"training": {"checkpoints": {"load_best_model_at_end": True}}},
        "training.checkpoints.load_best_model_at_end",
        "needs held-out rows; give a validation_file",
    ),
    "samples at no evaluation": (
        {"training": {"evaluation": {"sample_prompts": ["Hello?"]}}},
        "training.evaluation.sample_prompts",
        "needs held-out rows; give a validation_file",
    ),
    "a cap on no rows": (
        {"training": {"data": {"max_eval_rows": 5}}},
        "training.data.max_eval_rows",
        "needs held-out rows; give a validation_file",
    ),
    "no GPU for what needs one": (
        {
            "resources": {"gpus": 0},
            "training": {"model": {"use_liger_kernel": True, "dtype": "float16"}},
        },
        "resources.gpus",
        r"dtype float16 and training\.model\.use_liger_kernel cannot do without a GPU; set gpus",
    ),
    "no such target module": (
        {"training": {"adapter": {"target_modules": ["q_proj", "query"]}}},
        "training.adapter.target_modules",
        r"'query'.*q_proj, v_proj",
    ),
    "no loss to follow": (
        {"training": _optimization(lr_scheduler_type="reduce_lr_on_plateau")},
        "training.optimization.lr_scheduler_type",
        r"no rows to measure it on; give a validation file",
    ),
    "no such module to save": (
        {"training": {"adapter": {"modules_to_save": ["head"]}}},
        "training.adapter.modules_to_save",
        r"'head'.*embed_tokens",
    ),
    "another format": (
        {"training": {"data": {"format": "instruct"}}},
        "training.data.format",
        r"line 1 .*'messages', not 'instruct'",
    ),
    "epochs twice": (
        {
            "method": _method(n_epochs=2),
            "training": _optimization(num_train_epochs=3),
        },
        f"{HYPER}.n_epochs",
        rf"{HYPER}.n_epochs = 2 and training.optimization.num_train_epochs = 3",
    ),
    "learning rate twice": (
        {
            "method": _method(learning_rate_multiplier=2),
            "training": _optimization(learning_rate=1e-4),
        },
        f"{HYPER}.learning_rate_multiplier",
        r"learning_rate_multiplier.*0\.0004 and training.optimization.learning_rate = 0\.0001",
    ),
    "batch twice": (
        {
            "method": _method(batch_size=12),
            "training": _optimization(per_device_train_batch_size=4, gradient_accumulation_steps=2),
        },
        f"{HYPER}.batch_size",
        r"12 and training.optimization.per_device_train_batch_size.* = 8",
    ),
    "batch does not divide": (
        {
            "method": _method(batch_size=12),
            "training": _optimization(per_device_train_batch_size=8),
        },
        f"{HYPER}.batch_size",
        r"12 is not a multiple of .*per_device_train_batch_size = 8",
    ),
    "accumulation does not divide": (
        {
            "hyperparameters": {"batch_size": 10},
            "training": _optimization(gradient_accumulation_steps=4),
        },
        "hyperparameters.batch_size",
        r"10 is not a multiple of .*gradient_accumulation_steps = 4",
    ),
    "a rate that no run can have": (
        {"hyperparameters": {"learning_rate_multiplier": 1e6}},
        "training.optimization.learning_rate",
        r"learning_rate should be less than or equal to 100, but is 200\.0",
    ),
    "a rate below the least of its schedule": (
        {
            "hyperparameters": {"learning_rate_multiplier": 0.01},
            "training": _optimization(
                lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-5}
            ),
        },
        "training.optimization.lr_scheduler_kwargs.min_lr",
        "not below the learning rate",
    ),
    "both spellings of the hyperparameters": (
        {"method": _method(n_epochs=2), "hyperparameters": {"n_epochs": 3}},
        "hyperparameters.n_epochs",
        rf"hyperparameters.n_epochs = 3 and {HYPER}.n_epochs = 2",
    ),
}


@pytest.mark.parametrize(("body", "param", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_by_the_rules(ready: World, chat: str, body, param, message):
    before = _ids(ready)
    with pytest.raises(InvalidRequest, match=message) as refusal:
        ready.submit(**({"training_file": chat} | body))
    assert refusal.value.param == param
    assert _ids(ready) == before


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"template": "chatml"}, "template"),
        ({"train_on": "last_assistant"}, "train_on"),
        ({"default_system": "Be kind."}, "default_system"),
    ],
)
def test_what_is_for_turns_is_refused_where_no_file_has_any(ready: World, chat: str, data, param):
    pairs = ready.file([{"prompt": "a", "completion": "b"}]).id
    with pytest.raises(InvalidRequest, match="prompts and completions, and plain texts") as refusal:
        ready.submit(training_file=pairs, training={"data": data})
    assert refusal.value.param == f"training.data.{param}"
    both = [{"file": pairs}, {"file": chat}]
    job = ready.submit(training_files=both, training={"data": data})
    assert job.training["data"][param] == data[param]
    ready.submit(
        training_files=[{"file": pairs}, {"file": ready.unchecked().id}], training={"data": data}
    )


def test_a_finished_job_written_out_with_all_keys_is_taken_again(ready: World):
    for rows in ([CHAT_ROW], [{"prompt": "a", "completion": "b"}]):
        job = ready.submit(training_file=ready.file(rows).id, training=_optimization(optim="sgd"))
        with ready.db.reading() as session:
            body = specs.spec(session, ready.me, job.id)
        assert set(DataConfig.model_fields) == body["training"]["data"].keys()
        assert ready.submit(**body).training == job.training


def _ids(world: World) -> set[str]:
    return {row.id for model in (Job, Event) for row in world.all(model)}


UNREADABLE = {
    "r 0": ({"training": {"adapter": {"r": 0}}}, "training.adapter.r"),
    "8 bit with 4 bit options": (
        {"training": {"model": {"quantization": {"bits": 8, "type": "nf4"}}}},
        "training.model.quantization.type",
    ),
    "8 bit with 4 bit, older spelling": (
        {"training": {"model": {"load_in_8bit": True, "load_in_4bit": True}}},
        "training.model.load_in_4bit",
    ),
    "quantised full fine-tuning": (
        {"training": {"model": {"load_in_4bit": True}, "adapter": {"type": "none"}}},
        "training.adapter.type",
    ),
    "unknown key": ({"trainning": {}}, "trainning"),
    "unknown key below": ({"training": {"adapter": {"rank": 8}}}, "training.adapter.rank"),
    "unknown hyperparameter": (
        {"method": _method(epochs=2)},
        f"{HYPER}.epochs",
    ),
    "another method": ({"method": {"type": "dpo"}}, "method.type"),
    "both kinds of files": ({"training_files": [{"file": "file-1"}]}, ""),
    "no file": ({"training_file": None}, ""),
    "no file in the list": ({"training_file": None, "training_files": []}, "training_files"),
    "weight 0": (
        {"training_file": None, "training_files": [{"file": "file-1", "weight": 0}]},
        "training_files.0.weight",
    ),
    "weight 1001": (
        {"training_file": None, "training_files": [{"file": "file-1", "weight": 1001}]},
        "training_files.0.weight",
    ),
    "integration": ({"integrations": [{"type": "slack"}]}, "integrations.0"),
    "integration without its words": (
        {"integrations": [{"type": "wandb"}]},
        "integrations.0.WandbIntegration.wandb",
    ),
    "integration twice": (
        {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 2},
        "integrations",
    ),
    "NUL": ({"training_file": "file\0"}, "training_file"),
    "lone surrogate": ({"metadata": {"a": "\ud800"}}, "metadata.a"),
    "colon in the suffix": ({"suffix": "a:b"}, "suffix"),
    "no time": ({"limits": {"max_runtime_seconds": 0}}, "limits.max_runtime_seconds"),
    "not a number": ({"training": _optimization(weight_decay=float("nan"))}, "weight_decay"),
    "answers to no prompts": (
        {"training": {"evaluation": {"sample_max_new_tokens": 65}}},
        "training.evaluation.sample_max_new_tokens",
    ),
    "betas of no Adam": (
        {"training": _optimization(optim="sgd", adam_beta1=0.5)},
        "training.optimization.adam_beta1",
    ),
    "an optimizer that DeepSpeed may not take": (
        {
            "training": {
                "parallelism": {
                    "strategy": "zero2",
                    "deepspeed": {
                        "zero_optimization": {"stage": 2},
                        "zero_allow_untested_optimizer": False,
                    },
                }
            }
        },
        "training.parallelism.deepspeed.zero_allow_untested_optimizer",
    ),
    "half a step of warm-up": (
        {"training": _optimization(warmup_steps=1.5)},
        "training.optimization.warmup_steps",
    ),
}


@pytest.mark.parametrize(("body", "place"), UNREADABLE.values(), ids=UNREADABLE)
def test_refused_by_the_body_itself(ready: World, body, place):
    with pytest.raises(ValidationError) as refusal:
        ready.submit(**({"training_file": "file-1"} | body))
    error = refusal.value.errors()[0]
    assert ".".join(map(str, error["loc"])).endswith(place)


def test_a_file_of_another_project_does_not_exist(ready: World):
    foreign = ready.file(identity=ready.stranger())
    with pytest.raises(InvalidRequest, match="no file") as refusal:
        ready.submit(training_file=foreign.id)
    assert refusal.value.param == "training_file"
    with pytest.raises(InvalidRequest, match="no file"):
        ready.submit(training_file=ready.file().id, validation_file=foreign.id)


def test_a_deleted_file_does_not_exist(ready: World):
    file = ready.file()
    with ready.db.writing() as session:
        files.delete(session, ready.me, file.id)
    with pytest.raises(InvalidRequest, match="no file"):
        ready.submit(training_file=file.id)


def test_the_entry_of_a_list_of_files_is_named(ready: World):
    entries = [{"file": ready.file().id}, {"file": "file-gone"}]
    with pytest.raises(InvalidRequest) as refusal:
        ready.submit(training_files=entries)
    assert refusal.value.param == "training_files.1.file"


def test_another_purpose(ready: World):
    file = ready.file(purpose="batch")
    with pytest.raises(InvalidRequest, match=r"'batch'.*'fine-tune'") as refusal:
        ready.submit(training_file=file.id)
    assert refusal.value.param == "training_file"


def test_a_file_in_error_is_refused_with_its_lines(ready: World):
    file = ready.file([CHAT_ROW, "{", CHAT_ROW, "[]", "1", "2"])
    assert file.status == "error"
    with pytest.raises(InvalidRequest, match=r"line 2: .*; line 4: .*; and 1 more$") as refusal:
        ready.submit(training_file=file.id)
    assert refusal.value.param == "training_file"


def test_an_empty_file_is_refused(ready: World):
    with pytest.raises(InvalidRequest, match=r"line 1: .*empty"):
        ready.submit(training_file=ready.file([]).id)


def test_messages_need_a_template(local_world: World):
    local_world.model(facts=FACTS.model_copy(update={"has_chat_template": False}))
    file = local_world.file()
    with pytest.raises(InvalidRequest, match="chatml") as refusal:
        local_world.submit(training_file=file.id)
    assert refusal.value.param == "training.data.template"
    local_world.submit(training_file=file.id, training={"data": {"template": "chatml"}})
    local_world.submit(training_file=local_world.file([INSTRUCT_ROW]).id)


def test_a_model_that_is_not_ready(local_world: World):
    with local_world.db.writing() as session:
        request = ModelRequest(name="tiny", source="/models/tiny")
        model = catalogue.add(session, local_world.me, request)
    file = local_world.file()
    with pytest.raises(InvalidRequest, match="inspected"):
        local_world.submit(training_file=file.id)
    local_world.change(Model, model.id, status="error", error={"message": "no config.json"})
    with pytest.raises(InvalidRequest, match="no config"):
        local_world.submit(training_file=file.id)


BATCHES = {
    "nothing said": ({}, {}, (8, 1)),
    "small": ({"batch_size": 4}, {}, (4, 1)),
    "largest device batch": ({"batch_size": 48}, {}, (8, 6)),
    "prime": ({"batch_size": 13}, {}, (1, 13)),
    "device given": ({"batch_size": 12}, {"per_device_train_batch_size": 2}, (2, 6)),
    "steps given": ({"batch_size": 12}, {"gradient_accumulation_steps": 3}, (4, 3)),
    "both given, agreeing": (
        {"batch_size": 12},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4},
        (4, 3),
    ),
    "auto": ({"batch_size": "auto"}, {"per_device_train_batch_size": 2}, (2, 1)),
}


@pytest.mark.parametrize(("asked", "given", "sizes"), BATCHES.values(), ids=BATCHES)
def test_effective_batch(ready: World, chat: str, asked, given, sizes):
    job = ready.submit(training_file=chat, method=_method(**asked), training=_optimization(**given))
    optimization = job.training["optimization"]
    assert (
        optimization["per_device_train_batch_size"],
        optimization["gradient_accumulation_steps"],
    ) == sizes
    assert job.hyperparameters["batch_size"] == sizes[0] * sizes[1]


EPOCHS = {1: 25, 10: 10, 33: 4, 34: 3, 1000: 3}


@pytest.mark.parametrize(("rows", "epochs"), EPOCHS.items())
def test_automatic_epochs(ready: World, rows, epochs):
    job = ready.submit(training_file=ready.file([CHAT_ROW] * rows).id)
    assert job.hyperparameters["n_epochs"] == epochs
    assert job.training["optimization"]["num_train_epochs"] == epochs


def test_weights_count_as_rows(ready: World):
    job = ready.submit(training_files=[{"file": ready.file([CHAT_ROW] * 10).id, "weight": 0.5}])
    assert job.hyperparameters["n_epochs"] == 20


def test_learning_rates(ready: World, chat: str):
    plain = ready.submit(training_file=chat)
    doubled = ready.submit(training_file=chat, hyperparameters={"learning_rate_multiplier": 2})
    full = ready.submit(
        training_file=chat,
        method=_method(learning_rate_multiplier=0.5),
        training={"adapter": {"type": "none"}},
    )
    given = ready.submit(training_file=chat, training=_optimization(learning_rate=1e-4))
    rates = [job.training["optimization"]["learning_rate"] for job in (plain, doubled, full, given)]
    assert rates == pytest.approx([2e-4, 4e-4, 1e-5, 1e-4])
    multipliers = [job.hyperparameters["learning_rate_multiplier"] for job in (plain, full, given)]
    assert multipliers == [1, 0.5, 0.5]


def test_the_length_is_the_models_where_none_is_given(ready: World, chat: str):
    job = ready.submit(training_file=chat)
    assert job.training["data"]["max_length"] == FACTS.context_length


def test_agreeing_places_are_accepted(ready: World, chat: str):
    job = ready.submit(
        training_file=chat,
        method=_method(n_epochs=2, learning_rate_multiplier=0.5),
        hyperparameters={"n_epochs": 2, "batch_size": 6},
        training=_optimization(num_train_epochs=2, learning_rate=1e-4),
    )
    assert job.hyperparameters == {
        "n_epochs": 2,
        "batch_size": 6,
        "learning_rate_multiplier": 0.5,
    }


NAMES = {
    None: "",
    "tickets": "tickets",
    "My Model_2.0": "my-model-2-0",
    "...": "",
    "-a-": "a",
}


@pytest.mark.parametrize(("suffix", "shown"), NAMES.items())
def test_names(ready: World, chat: str, suffix, shown):
    job = ready.submit(training_file=chat, suffix=suffix)
    assert re.fullmatch(rf"ft:tiny:local:{shown}:[0-9a-f]{{8}}", job.fine_tuned_model)
    assert job.suffix == suffix


def test_what_a_new_job_is(ready: World):
    file = ready.file()
    other = ready.file([INSTRUCT_ROW])
    job = ready.submit(
        training_files=[{"file": file.id}, {"file": other.id, "weight": 2}],
        validation_file=file.id,
        training={"model": {"dtype": "float16"}},
        metadata={"a": "b"},
        priority=3,
        resources={"pool": "big", "gpus": 1},
    )
    assert (job.status, job.pool, job.gpus, job.priority) == ("queued", "big", 1, 3)
    assert job.requires == "cuda"
    assert job.model_sha256 == FACTS.sha256
    assert job.user_metadata == {"a": "b"}
    pins = {(pin.role, pin.position): pin for pin in ready.all(JobFile) if pin.job_id == job.id}
    assert {
        place: (pin.file_id, pin.sha256, pin.format, pin.weight) for place, pin in pins.items()
    } == {
        ("training", 0): (file.id, file.sha256, "messages", 1),
        ("training", 1): (other.id, other.sha256, "instruct", 2),
        ("validation", 0): (file.id, file.sha256, "messages", 1),
    }
    events = [(event.seq, event.type) for event in ready.all(Event) if event.stream_id == job.id]
    assert events == [(1, "message"), (2, "status")]


def test_seeds_are_kept_or_drawn(ready: World, chat: str):
    assert ready.submit(training_file=chat, seed=7).seed == 7
    drawn = {ready.submit(training_file=chat).seed for _ in range(3)}
    assert len(drawn) == 3
    assert all(0 <= seed < 2**31 for seed in drawn)


@pytest.mark.parametrize(
    ("optimization", "message"),
    [
        (
            {"warmup_steps": 50},
            "the steps of the run, 1, are fewer than the 50 of its warm-up; lower",
        ),
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 9},
            },
            "fewer than the 0 of its warm-up and the 9 of its decay together",
        ),
    ],
)
def test_a_schedule_that_is_longer_than_the_run(ready: World, chat: str, optimization, message):
    epochs = {**optimization, "num_train_epochs": 1, "per_device_train_batch_size": 64}
    with pytest.raises(InvalidRequest, match=message):
        ready.submit(training_file=chat, training={"optimization": epochs})
    split = {"optimization": epochs, "data": {"overlong": "split"}}
    assert ready.submit(training_file=chat, training=split).status == "queued"


@pytest.mark.parametrize(
    ("training", "requires"),
    [
        ({"optimization": {"torch_compile": True}}, "c++"),
        ({"parallelism": {"strategy": "zero2", "num_processes": 2}}, "deepspeed"),
        ({"model": {"attn_implementation": "flash_attention_2"}}, "cuda,flash_attn"),
        ({"parallelism": {"strategy": "zero2", "offload": ["optimizer"]}}, "c++,deepspeed"),
    ],
)
def test_what_a_host_must_have(ready: World, chat: str, training, requires):
    job = ready.submit(training_file=chat, training=training)
    assert job.requires == requires
