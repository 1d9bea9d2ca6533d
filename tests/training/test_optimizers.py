"""Every optimiser and schedule of transformers: trained, saved and gone on with, or refused."""

import copy
import inspect
import io
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from pydantic import ValidationError
from torch import nn
from transformers import TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from tests.training.adapting import IDS_BT, adapted_model, config_of
from tests.training.refusals import names_a_key
from tests.training.runs import adapter, curve, events, prepare, train
from training.adapters import Trainable
from training.config import TrainingConfig
from training.events import Event, Metrics, Progress
from training.facts import misfits
from training.failures import RunError
from training.inspection import inspect_model
from training.optimization_config import OptimizationConfig
from training.optimizers import OPTIMIZERS
from training.optimizing import OptimizingTrainer, optimizer_arguments
from training.schedules import SCHEDULES
from worker.abilities import abilities

pytestmark = [
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
    pytest.mark.filterwarnings("ignore:This implementation of AdamW is deprecated"),
]
FULL = {"type": "none"}
QUICK = {"adamw_torch", "adafactor", "adamw_bnb_8bit", "paged_lion_8bit", "schedule_free_adamw"}
HERE = [
    pytest.param(name, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for name, optimizer in OPTIMIZERS.items()
    if optimizer.refused is None
    and not optimizer.needs_cuda
    and (optimizer.package is None or find_spec(optimizer.package) is not None)
]


def config_for(name: str, **optimization: Any) -> TrainingConfig:
    optimizer = OPTIMIZERS[name]
    if optimizer.averages:
        optimization["lr_scheduler_type"] = "constant"
    if optimizer.projects:
        optimization |= {"optim_target_modules": ["attn", "mlp"], "optim_args": {"rank": 4}}
    optimization = {"learning_rate": 0.01, "warmup_steps": 0, "optim": name, **optimization}
    return config_of(adapter=FULL if optimizer.projects else {"r": 4}, optimization=optimization)


def trainer_for(
    folder: Path, config: TrainingConfig, output: Path, num_steps: int = 20
) -> OptimizingTrainer:
    arguments = optimizer_arguments(config, num_steps)
    trainer = OptimizingTrainer(
        model=adapted_model(folder, config),
        args=TrainingArguments(str(output), use_cpu=True, report_to="none", **arguments),
    )
    trainer.config = config
    trainer.create_optimizer_and_scheduler(num_steps)
    return trainer


def take_steps(trainer: OptimizingTrainer, num_steps: int) -> list[float]:
    optimizer: Any = trainer.optimizer
    model = trainer.model
    assert isinstance(model, nn.Module)
    if trainer.config.optimization.optimizer.averages:
        optimizer.train()
    losses = []
    for _ in range(num_steps):
        loss = model(input_ids=IDS_BT, labels=IDS_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_tables_are_those_of_transformers() -> None:
    assert set(OPTIMIZERS) == {each.value for each in OptimizerNames}
    assert set(SCHEDULES) == {each.value for each in SchedulerType}


def test_the_arguments_of_schedules_are_those_of_transformers() -> None:
    for name, schedule in SCHEDULES.items():
        function: Callable[..., Any] = TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]
        if name == "greedy":
            function = GreedyLR
        if name == "reduce_lr_on_plateau":
            function = torch.optim.lr_scheduler.ReduceLROnPlateau
        known = inspect.signature(function).parameters
        assert schedule.arguments.model_fields.keys() <= known.keys()
        for key, field in schedule.arguments.model_fields.items():
            if not field.is_required() and known[key].default is not inspect.Parameter.empty:
                assert field.default == known[key].default, (name, key)
        needed = {
            key
            for key, parameter in known.items()
            if parameter.default is inspect.Parameter.empty and parameter.kind.name != "VAR_KEYWORD"
        } - {"optimizer", "num_warmup_steps", "num_training_steps"}
        assert needed <= {k for k, f in schedule.arguments.model_fields.items() if f.is_required()}


ADAM = {"adam_beta1": 0.5, "adam_beta2": 0.6, "adam_epsilon": 1e-3}


@pytest.mark.parametrize("name", [param.values[0] for param in HERE])
def test_an_optimizer_goes_by_the_keys_of_adam_that_it_says(name: str, tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Linear(4, 4))

    def choice(**keys: float) -> str:
        names = "all-linear" if OPTIMIZERS[name].projects else None
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, optim=name, optim_target_modules=names, **keys
        )
        _kind, chosen = OptimizingTrainer.get_optimizer_cls_and_kwargs(arguments, layer)  # type: ignore[arg-type]
        groups = chosen.pop("params", ())
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        return str((chosen, settings))

    plain = choice()
    heeded = tuple(key for key, value in ADAM.items() if choice(**{key: value}) != plain)
    assert OPTIMIZERS[name].adam_keys == heeded


@pytest.mark.parametrize("key", ADAM)
@pytest.mark.parametrize("name", ["sgd", "paged_lion_8bit", "adamw_torch"])
def test_a_key_of_adam_is_refused_beside_an_optimizer_that_does_not_go_by_it(
    name: str, key: str
) -> None:
    if key in OPTIMIZERS[name].adam_keys:
        config_for(name, **{key: ADAM[key]})
        return
    config_for(name, **{key: OptimizationConfig.model_fields[key].default})
    with pytest.raises(
        ValidationError, match=f"'{name}' does not go by {key}: leave it"
    ) as refused:
        config_for(name, **{key: ADAM[key]})
    assert names_a_key(refused.value)


@pytest.mark.parametrize("name", HERE)
def test_an_optimizer_trains_and_goes_on_bit_for_bit(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    config = config_for(name)
    straight = trainer_for(tiny_model, config, tmp_path)
    losses = take_steps(straight, 8 if name == "schedule_free_radam" else 4)
    assert losses[-1] < losses[0]
    assert isinstance(straight.model, nn.Module)
    weights = copy.deepcopy(straight.model.state_dict())
    straight._save_optimizer_and_scheduler(str(tmp_path))
    torch.manual_seed(3)
    take_steps(straight, 2)

    resumed = trainer_for(tiny_model, config, tmp_path)
    assert isinstance(resumed.model, nn.Module)
    resumed.model.load_state_dict(weights)
    resumed._load_optimizer_and_scheduler(str(tmp_path))
    torch.manual_seed(3)
    take_steps(resumed, 2)

    left, right = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)


ARGUMENTS: list[tuple[str, Any, dict[str, Any]]] = [
    ("sgd", {"momentum": 0.8, "nesterov": True}, {"momentum": 0.8, "nesterov": True}),
    ("sgd", "momentum=0.8, nesterov=true", {"momentum": 0.8, "nesterov": True}),
    ("adagrad", {"lr_decay": 0.1, "eps": 1e-5}, {"lr_decay": 0.1, "eps": 1e-5}),
    ("rmsprop", {"alpha": 0.9, "centered": True}, {"alpha": 0.9, "centered": True}),
    # HF hands these over as the text they are written in.
    ("rmsprop_bnb", {"alpha": 0.9, "momentum": 0.1}, {"betas": (0.9, 0.1)}),
    ("stable_adamw", {"kahan_sum": False, "max_lr": 0.1}, {"kahan_sum": False, "max_lr": 0.1}),
    ("ademamix", {"beta3": 0.99, "alpha": 3}, {"alpha": 3, "betas": (0.9, 0.999, 0.99)}),
    ("schedule_free_adamw", {"r": 1, "weight_lr_power": 1}, {"r": 1, "weight_lr_power": 1}),
]


@pytest.mark.parametrize(("name", "asked", "expected"), ARGUMENTS)
def test_arguments_reach_the_optimizer(
    tiny_model: Path, tmp_path: Path, name: str, asked: Any, expected: dict[str, Any]
) -> None:
    trainer = trainer_for(tiny_model, config_for(name, optim_args=asked), tmp_path)
    assert trainer.optimizer is not None
    found = {**trainer.optimizer.defaults, **trainer.optimizer.param_groups[0]}
    assert {key: found[key] for key in expected} == expected
    assert all(isinstance(found[key], type(value)) for key, value in expected.items())


def test_projections_are_made_where_they_were_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    trainer = trainer_for(tiny_model, config_for("galore_adamw"), tmp_path)
    assert trainer.optimizer is not None
    others, projected = trainer.optimizer.param_groups
    assert (projected["rank"], len(projected["params"]), "rank" in others) == (4, 14, False)
    asked = config_of(
        adapter=FULL,
        optimization={"optim": "apollo_adamw", "optim_target_modules": ["mlp", "attention"]},
    )
    (found,) = misfits(asked, inspect_model(tiny_model))
    assert found.param == "training.optimization.optim_target_modules"
    assert "'attention'" in found.message


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({"optim": name}, f"'{name}' {optimizer.refused}")
        for name, optimizer in OPTIMIZERS.items()
        if optimizer.refused
    ),
    ({"optim": "adam"}, "'adam' is no optimizer of transformers; there are adafactor, adagrad, "),
    ({"optim": "sgd", "optim_args": {"momentum": 2}}, r"optim_args.momentum\n  should be less"),
    ({"optim": "sgd", "optim_args": {"nesterov": True}}, "nesterov needs a momentum"),
    (
        {"optim": "sgd", "optim_args": {"beta": 1}},
        r"optim_args.beta\n.*it takes momentum, dampening",
    ),
    ({"optim_args": "momentum=0.9"}, r"optim_args.momentum\n  unknown; it takes none"),
    ({"optim_args": {"momentum": float("nan")}}, "optim_args"),
    ({"optim_target_modules": "all-linear"}, "is for GaLore and APOLLO, which 'adamw_torch' is"),
    ({"optim": "galore_adamw"}, "'galore_adamw' needs optim_target_modules"),
    (
        {"optim": "galore_adamw", "optim_target_modules": "all-linear"},
        'is for whole weights.*set adapter.type to "none"',
    ),
    ({"optim": "schedule_free_sgd"}, 'set lr_scheduler_type to "constant"'),
    ({"lr_scheduler_type": "cosin"}, "'cosin' is no schedule of transformers; there are"),
    ({"lr_scheduler_type": "constant", "warmup_steps": 5}, "has no warm-up"),
    ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"min_lr": 0}}, "it takes none"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "needs either min_lr or min_lr_rate"),
    (
        {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-5, "min_lr_rate": 0.1},
        },
        "needs either min_lr or min_lr_rate",
    ),
    ({"lr_scheduler_type": "warmup_stable_decay"}, r"lr_scheduler_kwargs.num_decay_steps\n  Field"),
    ({"lr_scheduler_type": "greedy"}, r"lr_scheduler_kwargs.min_lr\n  Field required"),
    (
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1e-3}},
        "lr_end is 0.001, which is not below the learning rate of 0.0002",
    ),
    ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, "lr_end is 1e-07"),
    ({"neftune_noise_alpha": 0}, "neftune_noise_alpha"),
    (
        {"max_steps": 5, "warmup_steps": 100},
        "fewer than the 100 of its warm-up; lower",
    ),
    (
        {
            "max_steps": 5,
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": 6},
        },
        "of the run, 5, are fewer than the 0 of its warm-up and the 6 of its decay together",
    ),
    ({"max_steps": 1, "warmup_steps": 1}, "the run has one step, which is that of its warm-up"),
    (
        {"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": {"min_lr": 0, "max_lr": 1e-4}},
        "max_lr is 0.0001, below the learning rate of 0.0002",
    ),
    ({"learning_rate": 1e300}, "optimization.learning_rate"),
    ({"adam_epsilon": 1e300}, "optimization.adam_epsilon"),
    ({"weight_decay": 1e30}, "optimization.weight_decay"),
]


@pytest.mark.parametrize(("optimization", "message"), REFUSED)
def test_what_cannot_work_is_refused(optimization: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        TrainingConfig.model_validate({"optimization": optimization})
    assert names_a_key(caught.value)


def test_a_host_has_what_an_optimizer_needs() -> None:
    needs = {
        name: config_for(name).requires
        for name in ("adamw_torch", "stable_adamw", "galore_adamw_8bit", "adamw_torch_8bit")
    }
    assert needs == {
        "adamw_torch": frozenset(),
        "stable_adamw": {"optimi"},
        "galore_adamw_8bit": {"cuda", "galore_torch"},
        "adamw_torch_8bit": {"torchao"},
    }
    assert {"optimi", "schedulefree", "galore_torch", "apollo_torch"} <= abilities(())


RATES = {
    "constant": {},
    "constant_with_warmup": {},
    "linear": {},
    "cosine": {"num_cycles": 0.75},
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"lr_end": 1e-3, "power": 2.0},
    "inverse_sqrt": {"timescale": 7},
    "cosine_with_min_lr": {"min_lr": 1e-3},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    "warmup_stable_decay": {"num_decay_steps": 6, "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
}


def test_every_schedule_is_tried() -> None:
    following = {name for name, schedule in SCHEDULES.items() if schedule.follows_loss}
    assert RATES.keys() | following == SCHEDULES.keys()


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rates_are_those_of_transformers(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    num_steps, warmup = 20, 4 if SCHEDULES[name].warms_up else 0
    config = config_of(
        adapter={"r": 1, "target_modules": ["q_proj"]},
        optimization={
            "learning_rate": 0.01,
            "lr_scheduler_type": name,
            "lr_scheduler_kwargs": RATES[name],
            "warmup_steps": warmup,
        },
    )
    trainer = trainer_for(tiny_model, config, tmp_path, num_steps)
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    expected = get_scheduler(name, plain, warmup, num_steps, RATES[name])

    def rates(optimizer: Any, schedule: Any) -> list[float]:
        found = []
        for _ in range(num_steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    curve = rates(trainer.optimizer, trainer.lr_scheduler)
    assert curve == rates(plain, expected)
    assert max(curve) == pytest.approx(0.01)
    assert len(set(curve)) == 1 or name != "constant"


def test_a_run_that_is_too_short_for_its_schedule_is_refused(tiny_model: Path) -> None:
    config = config_of(
        optimization={
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": 8},
            "warmup_steps": 4,
        }
    )
    assert optimizer_arguments(config, 12)["warmup_steps"] == 4
    with pytest.raises(
        RunError, match="of the run, 11, are fewer than the 4 of its warm-up and the 8"
    ):
        optimizer_arguments(config, 11)
    with pytest.raises(RunError, match="fewer than the 9 of its warm-up") as caught:
        optimizer_arguments(config_of(optimization={"warmup_steps": 9}), 8)
    assert caught.value.failure.param == "training.optimization.warmup_steps"


def test_lora_plus_gives_lora_b_a_rate_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(
        adapter={"r": 4, "loraplus_lr_ratio": 8},
        optimization={"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 0},
    )
    trainer = trainer_for(tiny_model, config, tmp_path)
    ours: Trainable = trainer.model  # type: ignore[assignment]
    theirs = adapted_model(tiny_model, config)
    expected = create_loraplus_optimizer(
        theirs,
        torch.optim.AdamW,
        lr=0.01,
        loraplus_lr_ratio=8,
        loraplus_weight_decay=0.1,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    for model, optimizer in ((ours, trainer.optimizer), (theirs, expected)):
        assert optimizer is not None
        for _ in range(2):
            model(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    left, right = ours.state_dict(), theirs.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert trainer.optimizer is not None
    assert trainer._get_learning_rate() == 0.01
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.01, 0.08}


EVALUATED: dict[str, Any] = {
    "data": {"eval_split": 0.25},
    "adapter": {"r": 2},
    "evaluation": {"eval_steps": 2},
    "reporting": {"logging_steps": 1, "report_to": []},
}


def is_evaluating(event: Event, step: int) -> bool:
    return isinstance(event, Progress) and (event.phase, event.step) == ("evaluating", step)


# The first evaluation finds the best loss; every later one is no better by 10 nats.
UNMOVED = {"patience": 0, "factor": 0.5, "threshold": 10.0, "threshold_mode": "abs"}


@pytest.mark.parametrize(
    ("name", "arguments", "rates"),
    [
        ("reduce_lr_on_plateau", UNMOVED, [0.01, 0.01, 0.005, 0.0025]),
        pytest.param(
            "greedy",
            {**UNMOVED, "min_lr": 1e-6},
            [0.01, 0.02, 0.01, 0.005],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_schedule_follows_the_held_out_loss_and_a_stop_puts_nothing_off(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: dict[str, Any],
    rates: list[float],
) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)
    settings = {
        **EVALUATED,
        "optimization": {
            "max_steps": 8,
            "learning_rate": 0.01,
            "lr_scheduler_type": name,
            "lr_scheduler_kwargs": arguments,
        },
    }
    straight = prepare(tmp_path / "straight", tiny_model, settings)
    paused = prepare(tmp_path / "paused", tiny_model, settings)
    assert train(straight).outcome == "succeeded"
    found = curve(straight, "learning_rate")
    assert [found[step] for step in (1, 3, 5, 7)] == [found[step] for step in (2, 4, 6, 8)] == rates

    stopped = train(paused, stop_when=lambda event: is_evaluating(event, 4), reason="pause")
    assert stopped.outcome == "interrupted"
    assert train(paused).outcome == "succeeded"
    assert curve(paused, "learning_rate") == found
    left, right = adapter(straight.result), adapter(paused.result)
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_noise_is_for_training_alone_and_goes_on_exactly(tiny_model: Path, tmp_path: Path) -> None:
    def settings(alpha: float | None, learning_rate: float) -> dict[str, Any]:
        return {
            **EVALUATED,
            "optimization": {
                "max_steps": 4,
                "learning_rate": learning_rate,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
                "neftune_noise_alpha": alpha,
            },
            "checkpoints": {"save_steps": 2},
        }

    quiet = prepare(tmp_path / "quiet", tiny_model, settings(None, 1e-30))
    noisy = prepare(tmp_path / "noisy", tiny_model, settings(20, 1e-30))
    assert train(quiet).outcome == train(noisy).outcome == "succeeded"
    assert curve(quiet, "valid_loss") == curve(noisy, "valid_loss")
    one, other = curve(quiet), curve(noisy)
    assert all(one[step] != other[step] for step in one)

    straight = prepare(tmp_path / "straight", tiny_model, settings(5, 0.01))
    assert train(straight).outcome == "succeeded"
    resumed = prepare(tmp_path / "resumed", tiny_model, settings(5, 0.01))
    shutil.copytree(straight.checkpoint(2), resumed.checkpoint(2))
    assert train(resumed).outcome == "succeeded"
    left, right = adapter(straight.result), adapter(resumed.result)
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_an_averaging_optimizer_gives_the_averages(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        **EVALUATED,
        "optimization": {
            "max_steps": 6,
            "learning_rate": 0.05,
            "optim": "schedule_free_adamw",
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        },
        "evaluation": {"eval_steps": 6},
    }
    plain = prepare(tmp_path / "plain", tiny_model, settings)
    assert train(plain).outcome == "succeeded"
    # What was evaluated last, what the checkpoint has and what is given are the same weights.
    saved, given = adapter(plain.checkpoint(6)), adapter(plain.result)
    assert all(torch.equal(saved[key], given[key]) for key in saved)
    start = {"path": str(plain.result), "name": "ft:tiny:o::1"}
    still = {**settings, "optimization": {"max_steps": 1, "learning_rate": 1e-30}}
    child = prepare(tmp_path / "child", tiny_model, still, start=start)
    assert train(child).outcome == "succeeded"
    assert curve(child, "valid_loss")[1] == pytest.approx(curve(plain, "valid_loss")[6], rel=1e-6)

    # To look at them on the way changes nothing that is trained.
    looked = {**settings, "evaluation": {"eval_steps": 1}, "checkpoints": {"save_steps": 2}}
    watched = prepare(tmp_path / "watched", tiny_model, looked)
    assert train(watched).outcome == "succeeded"
    assert curve(watched) == curve(plain)
    after = adapter(watched.result)
    assert all(torch.equal(given[key], after[key]) for key in given)


def test_a_checkpoint_of_the_optimizer_runs_no_code(tiny_model: Path, tmp_path: Path) -> None:
    trainer = trainer_for(tiny_model, config_for("galore_adamw"), tmp_path)
    take_steps(trainer, 1)
    assert trainer.optimizer is not None
    buffer = io.BytesIO()
    torch.save({"state": trainer.optimizer.state_dict(), "other": io.BytesIO()}, buffer)
    (tmp_path / "optimizer.pt").write_bytes(buffer.getvalue())
    (tmp_path / "scheduler.pt").write_bytes(buffer.getvalue())
    with pytest.raises(Exception, match="Weights only load failed"):
        trainer._load_optimizer_and_scheduler(str(tmp_path))


def test_the_metrics_are_told(tiny_model: Path, tmp_path: Path) -> None:
    settings = {**EVALUATED, "optimization": {"max_steps": 1, "optim": "lion_8bit"}}
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory).outcome == "succeeded"
    assert any(isinstance(event, Metrics) for event in events(directory))


def test_a_job_that_was_taken_before_a_rule_trains(tiny_model: Path, tmp_path: Path) -> None:
    """Its keys would be refused today; in its run directory they stand as they were stored."""
    directory = prepare(tmp_path, tiny_model, {"optimization": {"optim": "sgd", "max_steps": 1}})
    stored = json.loads(directory.spec_file.read_text())
    stored["training"]["optimization"] |= {"adam_beta1": 0.5, "learning_rate": 0.1}
    directory.spec_file.write_text(json.dumps(stored))
    assert train(directory).outcome == "succeeded"
