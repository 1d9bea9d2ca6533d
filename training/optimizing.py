"""HF's `Trainer` with every optimiser and schedule of our tables; apart, so that the loop is not.

What differs from HF: arguments keep their types; LoRA+ gives lora_B a rate of its own; a schedule
that follows the held-out loss sees every evaluation once, also one that a stop has put off; and an
optimiser that trains other weights than it gives is asked for those it gives.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType, TrainOutput

from training.config import TrainingConfig
from training.failures import unfit
from training.optimization_config import parse_arguments


def optimizer_arguments(config: TrainingConfig, num_steps: int) -> dict[str, Any]:
    """Optimiser and schedule in the words of `TrainingArguments`.

    Raises:
        RunError: The run is too short for the schedule.
    """
    optimization = config.optimization
    for misfit in optimization.length_misfits(num_steps):
        raise unfit(misfit)
    return {
        "learning_rate": optimization.learning_rate,
        # HF takes one that follows the loss only where it evaluates itself: see `create_scheduler`.
        "lr_scheduler_type": (
            "constant" if optimization.schedule.follows_loss else optimization.lr_scheduler_type
        ),
        "lr_scheduler_kwargs": dict(optimization.lr_scheduler_kwargs),
        "warmup_steps": optimization.num_warmup_steps(num_steps),
        "optim": optimization.optim,
        "optim_args": _as_text(optimization.optim_args),
        "optim_target_modules": optimization.optim_target_modules,
        "adam_beta1": optimization.adam_beta1,
        "adam_beta2": optimization.adam_beta2,
        "adam_epsilon": optimization.adam_epsilon,
        "weight_decay": optimization.weight_decay,
        "max_grad_norm": optimization.max_grad_norm,
        "neftune_noise_alpha": optimization.neftune_noise_alpha,
    }


class OptimizingTrainer(Trainer):
    """A trainer whose subclass evaluates, and says what it found to `follow_loss`.

    Attributes:
        config: Of the run.
    """

    config: TrainingConfig
    _loss_to_follow: float | None = None

    @staticmethod
    def get_optimizer_cls_and_kwargs(
        args: TrainingArguments, model: PreTrainedModel | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """HF's choice; where it hands over an argument as text, the number that was meant."""
        kind, arguments = Trainer.get_optimizer_cls_and_kwargs(args, model)
        typed = parse_arguments(args.optim_args)
        return kind, {name: typed.get(name, value) for name, value in arguments.items()}

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        is_new = self.optimizer is None
        optimizer: Optimizer = super().create_optimizer(model)
        ratio = self.config.adapter.loraplus_lr_ratio
        if is_new and ratio is not None:
            _give_rate(optimizer, _lora_b(self.model if model is None else model), ratio)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        self.args.lr_scheduler_type = SchedulerType(self.config.optimization.lr_scheduler_type)
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_fsdp_enabled:
            self._wake_scaler(checkpoint)
        with torch.serialization.safe_globals(_state_classes(self.config)):
            super()._load_optimizer_and_scheduler(checkpoint)
        if self._loss_to_follow is not None:
            self.follow_loss(self._loss_to_follow)

    def _wake_scaler(self, checkpoint: str | None) -> None:
        """FSDP makes room for the optimiser's state by an empty step, which float16 scales."""
        if checkpoint is not None and self.accelerator.scaler is not None:
            self._load_scaler(checkpoint)
            self.accelerator.scaler._lazy_init_scale_growth_tracker(self.args.device)

    def _evaluate(self, *_args: object, **_kwargs: object) -> dict[str, float]:
        """HF would look for the loss under a name of its own to step the schedule with."""
        return self.evaluate()

    def follow_loss(self, loss: float) -> None:
        """Tell a schedule that follows the held-out loss; one that is not made yet, later."""
        if not self.config.optimization.schedule.follows_loss:
            return
        schedule: Any = self.lr_scheduler
        self._loss_to_follow = loss if schedule is None else None
        if schedule is not None:
            schedule.step(loss)

    @contextmanager
    def given_weights(self) -> Iterator[None]:
        """A block in which the model has the weights it gives, where it trains others."""
        optimizer: Any = self.optimizer
        if optimizer is None or not self.config.optimization.optimizer.averages:
            yield
            return
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        kept = [parameter.detach().clone() for parameter in trained]
        optimizer.eval()
        yield
        optimizer.train()
        with torch.no_grad():
            # The way there and back is not exact to the last bit.
            for parameter, value in zip(trained, kept, strict=True):
                parameter.copy_(value)

    def train(self, *args: Any, **options: Any) -> TrainOutput:  # noqa: ANN401 - HF's signature
        """Train, and leave the model with the weights it gives."""
        output = super().train(*args, **options)
        optimizer: Any = self.optimizer
        if self.config.optimization.optimizer.averages:
            optimizer.eval()
        return output


def _as_text(arguments: dict[str, Any]) -> str | None:
    """As transformers writes them."""
    words = {True: "true", False: "false"}
    pairs = (
        f"{name}={words[value] if isinstance(value, bool) else value}"
        for name, value in arguments.items()
    )
    return ",".join(pairs) or None


def _lora_b(model: nn.Module | None) -> set[int]:
    assert model is not None, "Trainer was made with a model"
    return {id(p) for name, p in model.named_parameters() if "lora_B" in name and p.requires_grad}


def _give_rate(optimizer: Optimizer, parameters: set[int], ratio: float) -> None:
    """Part groups of parameters, so that some of them have a rate of their own."""
    for group in list(optimizer.param_groups):
        fast = [parameter for parameter in group["params"] if id(parameter) in parameters]
        if fast:
            group["params"] = [p for p in group["params"] if id(p) not in parameters]
            optimizer.add_param_group({**group, "params": fast, "lr": group["lr"] * ratio})


def _state_classes(config: TrainingConfig) -> list[Any]:
    """Classes of the optimiser's package that its state in a checkpoint may have."""
    names = _STATE_CLASSES.get(config.optimization.optimizer.package or "", ())
    return [getattr(importlib.import_module(module), name) for module, name in names]


_STATE_CLASSES = {
    "galore_torch": (("galore_torch.galore_projector", "GaLoreProjector"),),
    "apollo_torch": (
        ("apollo_torch.svd_projector", "GaLoreProjector"),
        ("apollo_torch.random_projector", "GradientProjector"),
    ),
}
