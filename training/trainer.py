"""The HF `Trainer` with our loss, our numbers, our checkpoints and our way to stop.

Its loop, optimisers, schedules and mixed precision are used as they are. What differs: the loss
of an accumulation window is its summed token loss over its number of trained tokens; evaluation
sums tokens instead of averaging batches; checkpoints appear whole or not at all.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from training.adapters import Trainable
from training.callbacks import Flow, Pace, Sampling, Tracker
from training.checkpoint import restore_weights, write_weights
from training.collation import Batch, PackedCollator, PaddedCollator
from training.config import TrainingConfig
from training.context import RunContext
from training.encoding import Document
from training.events import CheckpointSaved, Metrics
from training.failures import RunError
from training.ledger import Ledger, Numbers
from training.loss import count_targets, token_totals
from training.packing import Block
from training.resumption import prune_checkpoints
from training.run_directory import complete_folder, read_manifest


@dataclass(frozen=True)
class TrainingData:
    """What the trainer reads.

    Attributes:
        train: Documents, or blocks of them.
        valid: Documents; evaluation never packs.
        collate: Fits `train`.
        collate_valid: Fits `valid`.
    """

    train: Sequence[Document] | Sequence[Block]
    valid: Sequence[Document]
    collate: PaddedCollator | PackedCollator
    collate_valid: PaddedCollator


def total_steps(config: TrainingConfig, num_rows: int) -> int:
    """Optimiser steps of a run over `num_rows` rows (blocks, when packed) an epoch."""
    optimization = config.optimization
    if optimization.max_steps is not None:
        return optimization.max_steps
    assert optimization.num_train_epochs is not None, "the configuration is not resolved"
    num_batches = math.ceil(num_rows / optimization.per_device_train_batch_size)
    steps_per_epoch = math.ceil(num_batches / optimization.gradient_accumulation_steps)
    return max(1, math.ceil(optimization.num_train_epochs * steps_per_epoch))


def training_arguments(context: RunContext, max_steps: int) -> TrainingArguments:
    """Our configuration in HF's words. What our callbacks do themselves is turned off."""
    config = context.config
    optimization = config.optimization
    has_gpu = torch.cuda.is_available()
    warmup = optimization.warmup_steps
    # Weights below float32 compute in their own precision; float32 master weights need autocast.
    masters = config.adapter.type == "none"
    return TrainingArguments(
        output_dir=str(context.directory.checkpoints),
        max_steps=max_steps,
        per_device_train_batch_size=optimization.per_device_train_batch_size,
        per_device_eval_batch_size=optimization.per_device_eval_batch_size,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        learning_rate=cast("float", optimization.learning_rate),
        lr_scheduler_type=optimization.lr_scheduler_type,
        # Rounded down: the first step of a warm-up has a rate of 0, which a short run cannot spare.
        warmup_steps=int(warmup * max_steps) if warmup < 1 else int(warmup),
        optim=optimization.optim,
        adam_beta1=optimization.adam_beta1,
        adam_beta2=optimization.adam_beta2,
        adam_epsilon=optimization.adam_epsilon,
        weight_decay=optimization.weight_decay,
        max_grad_norm=optimization.max_grad_norm,
        activation_checkpointing=optimization.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=optimization.torch_compile,
        bf16=masters and config.model.dtype == "bfloat16",
        fp16=config.model.dtype == "float16",
        use_cpu=not has_gpu,
        dataloader_pin_memory=has_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=context.seed,
        data_seed=context.seed,
        logging_steps=config.reporting.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoints.save_steps,
        save_total_limit=None,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class EpochShuffle(Sampler[int]):
    """A new order in every epoch, which depends on nothing but the seed and the epoch."""

    def __init__(self, num_rows: int, seed: int) -> None:
        self._num_rows = num_rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.randperm(self._num_rows, generator=generator).tolist()


class FineTuner(Trainer):
    """Trains a model or its adapter on `TrainingData`."""

    # Our loss is divided by the targets of the whole accumulation window already.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Trainable,
        data: TrainingData,
        context: RunContext,
        ledger: Ledger,
        sampling: Sampling,
    ) -> None:
        max_steps = total_steps(context.config, len(data.train))
        self.context = context
        self.ledger = ledger
        self._data = data
        self._trained = model
        self._sampling = sampling
        self._pace = Pace()
        self._tracker = Tracker(context.directory, context.config.reporting)
        super().__init__(
            model=model,
            args=training_arguments(context, max_steps),
            train_dataset=data.train,
            data_collator=data.collate,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(Flow(context, ledger, self._pace, evaluates=bool(data.valid)))

    # What a step is

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochShuffle:  # noqa: ANN401, ARG002
        return EpochShuffle(len(self._data.train), self.context.seed)

    def _get_num_items_in_batch(
        self,
        batch_samples: list[Batch],
        device: torch.device,  # noqa: ARG002 - HF's signature
    ) -> int:
        """Trained tokens of an accumulation window.

        Raises:
            RunError: There are none.
        """
        num_targets = sum(map(count_targets, batch_samples))
        if batch_samples and not num_targets:
            raise RunError(
                "no_target_tokens",
                "A whole accumulation window has not a single token to train on.",
                fault="data",
                remedy="Look at the data and at training.data.train_on.",
            )
        return num_targets

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,  # noqa: FBT001, FBT002, ARG002 - HF's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The batch's share of its window's mean loss per token.

        Raises:
            RunError: The loss is not a number.
        """
        assert num_items_in_batch, "a window is counted before its first batch"
        totals = token_totals(model, inputs)
        loss_sum = totals.loss_sum.item()
        if not math.isfinite(loss_sum):
            raise _nan_loss(self.state.global_step + 1)
        self.ledger.add(
            loss_sum=loss_sum,
            num_correct=totals.num_correct,
            num_targets=totals.num_targets,
            num_tokens=int(inputs["num_tokens"]),
        )
        return totals.loss_sum / num_items_in_batch

    # What is told

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002
        """Send the metrics of the steps since the last ones; HF's closing summary is left out."""
        if "loss" not in logs:
            return
        self._publish(
            {
                **self.ledger.close_window(),
                "learning_rate": logs["learning_rate"],
                "grad_norm": logs.get("grad_norm"),
                "epoch": self.state.epoch,
                "trained_tokens": self.ledger.trained_tokens,
                "tokens_per_second": self._pace.tokens_per_second,
            }
        )

    def evaluate(self, *_args: object, **_kwargs: object) -> dict[str, float]:
        """Measure the held-out documents, all in one way; later if a stop is requested."""
        self.control.should_evaluate = False
        self.context.reporter.enter("evaluating")
        numbers = self._valid_numbers()
        self.ledger.evaluation_due = numbers is None
        if numbers is None:
            self.control.should_training_stop = True
            self.control.should_save = self.context.stop.saves
        else:
            self._publish({**numbers})
            self._judge(numbers["valid_loss"])
            self._sampling.answer(self._trained, self.state.global_step, self.context)
        self.context.reporter.enter("training")
        return numbers or {}

    def _valid_numbers(self) -> dict[str, float] | None:
        batch_size = self.args.per_device_eval_batch_size
        loss_sum, num_correct, num_targets = 0.0, 0, 0
        was_training = self._trained.training
        self._trained.eval()
        for start in range(0, len(self._data.valid), batch_size):
            if self.context.stop.reason is not None:
                return None
            batch = self._data.collate_valid(self._data.valid[start : start + batch_size])
            with torch.no_grad(), self.accelerator.autocast():
                totals = token_totals(self._trained, self._prepare_inputs(batch))
            loss_sum += totals.loss_sum.item()
            num_correct += totals.num_correct
            num_targets += totals.num_targets
            self.context.reporter.beat()
        self._trained.train(was_training)
        loss, accuracy = loss_sum / num_targets, num_correct / num_targets
        return {
            "valid_loss": loss,
            "valid_mean_token_accuracy": accuracy,
            # OpenAI's clients read the measurement of the whole set under these names.
            "full_valid_loss": loss,
            "full_valid_mean_token_accuracy": accuracy,
        }

    def _judge(self, valid_loss: float) -> None:
        patience = self.context.config.evaluation.early_stopping_patience
        if self.ledger.judge(valid_loss, patience) and not self.ledger.is_done:
            self.context.reporter.tell(
                f"The held-out loss has not fallen for {patience} evaluations: training ends."
            )
            self.ledger.is_done = True
            self.control.should_training_stop = True
            self.control.should_save = True

    def _publish(self, numbers: Numbers) -> None:
        step = self.state.global_step
        self.ledger.metrics.update(numbers)
        self.context.reporter.emit(Metrics(step=step, metrics=numbers))
        self._tracker.write(step, numbers)

    # What is kept

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:  # noqa: ARG002
        """A whole checkpoint, its event, and the deletion of the oldest ones."""
        context, step = self.context, self.state.global_step
        context.reporter.enter("saving")
        target = context.directory.checkpoint(step)
        with complete_folder(target, step=step, attempt=context.attempt) as folder:
            write_weights(self._trained, folder)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            self.ledger.write(folder)
        context.reporter.emit(
            CheckpointSaved(
                step=step,
                name=target.name,
                bytes=read_manifest(target).total_bytes,
                metrics=dict(self.ledger.metrics),
            )
        )
        prune_checkpoints(context.directory, context.config.checkpoints.keep)
        context.reporter.enter("training")

    def _load_from_checkpoint(
        self,
        resume_from_checkpoint: str,
        model: nn.Module | None = None,  # noqa: ARG002 - HF's signature
    ) -> None:
        restore_weights(self._trained, Path(resume_from_checkpoint))

    def restore(self, checkpoint: Path) -> None:
        """Stand where the run stood when `checkpoint` was saved, without training on."""
        restore_weights(self._trained, checkpoint)
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))


def _nan_loss(step: int) -> RunError:
    return RunError(
        "nan_loss",
        f"The loss is not a finite number at step {step}.",
        fault="spec",
        param="training.optimization.learning_rate",
        remedy="Lower the learning rate, warm up longer, or use bfloat16 or float32.",
    )
