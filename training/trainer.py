"""The HF `Trainer` with our loss, our numbers, our checkpoints and our way to stop.

Its loop, optimisers, schedules and mixed precision are used as they are. What differs: the loss
of an accumulation window is its summed token loss over its number of trained tokens; evaluation
sums tokens instead of averaging batches; checkpoints appear whole or not at all.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from training.adapters import Trainable
from training.attention import in_16_bits
from training.best_model import BestModel, perplexity
from training.callbacks import Beginning, Flow, Pace, Sampling, is_worth_keeping
from training.checkpoint import restore_weights, write_weights
from training.collation import Batch
from training.context import RunContext
from training.documents import Document
from training.engine import Engine
from training.evaluating import evaluating
from training.events import CheckpointSaved, Metrics
from training.failures import RunError, StopRequested
from training.isolation import require_isolation
from training.ledger import Ledger, Numbers
from training.loss import HEADS, causal_model
from training.model import computation_dtype
from training.optimizing import OptimizingTrainer, optimizer_arguments
from training.packing import Block
from training.resumption import prune_checkpoints
from training.run_directory import read_manifest
from training.run_length import total_steps
from training.sampling import SAMPLERS, EpochOrder
from training.sharing import EpochLoader, IdleCollator, RankBatches, part
from training.state_files import rest, save_state
from training.strategies import strategy_arguments
from training.written import check_adapter


@dataclass(frozen=True)
class TrainingData:
    """What the trainer reads.

    Attributes:
        train: Documents, or blocks of them.
        valid: Documents; evaluation never packs.
        engine: Fits them and the model.
    """

    train: Sequence[Document] | Sequence[Block]
    valid: Sequence[Document]
    engine: Engine


def training_arguments(context: RunContext, max_steps: int, *, has_idle: bool) -> TrainingArguments:
    """Our configuration in HF's words. What our callbacks do themselves is turned off."""
    config = context.config
    optimization = config.optimization
    has_gpu = torch.cuda.is_available()
    # Weights below float32 compute in their own precision; float32 master weights need autocast.
    masters = config.adapter.type == "none"
    settings: dict[str, Any] = {
        "bf16": masters and config.model.dtype == "bfloat16",
        **optimizer_arguments(config, max_steps),
        **strategy_arguments(config, context.crew, has_idle=has_idle),
    }
    arguments = TrainingArguments(
        output_dir=str(context.directory.checkpoints),
        max_steps=max_steps,
        per_device_train_batch_size=optimization.per_device_train_batch_size,
        per_device_eval_batch_size=optimization.per_device_eval_batch_size,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        activation_checkpointing=optimization.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=optimization.torch_compile,
        fp16=config.model.dtype == "float16",
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
        **settings,
    )
    # A process alone that sees several GPUs would be spread over all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class FineTuner(OptimizingTrainer):
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
        self.config = context.config
        self.ledger = ledger
        self.best = BestModel(context, ledger)
        self._data = data
        self._trained = model
        self._sampling = sampling
        self._pace = Pace()
        super().__init__(
            model=model,
            args=training_arguments(context, max_steps, has_idle=bool(data.engine.idle)),
            train_dataset=data.train,
            data_collator=data.engine.collate,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(Flow(context, ledger, self._pace, evaluates=bool(data.valid)))
        if context.config.parallelism.splits_the_model:
            self.add_callback(Beginning(self._begin_in_parts))

    def _begin_in_parts(self) -> None:
        """What is done before training where a process alone has the whole model."""
        if self.context.config.data.packing:
            vocab_size = self._trained.config.get_text_config().vocab_size
            require_isolation(self._trained, vocab_size, self._data.engine.collate)
        stop = self.context.stop
        if self.is_evaluation_due and not self.evaluate() and stop.is_agreed:
            assert stop.reason is not None
            raise StopRequested(stop.reason)  # what it went on from is still all there is

    @property
    def can_evaluate(self) -> bool:
        """Whether the model can be used before it is trained."""
        return not self.context.config.parallelism.splits_the_model

    @property
    def is_evaluation_due(self) -> bool:
        """Whether held-out rows are to be measured before the next step."""
        is_start = self.context.config.evaluation.eval_on_start and not self.state.global_step
        return self.ledger.evaluation_due or is_start

    # What a step is

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:  # noqa: ANN401, ARG002
        config, train = self.context.config, self._data.train
        strategy = config.optimization.train_sampling_strategy
        return SAMPLERS[strategy](train, self.context.seed, config.effective_batch_size)

    def get_train_dataloader(self) -> EpochLoader:
        """This process's share of every batch, in an order that all processes share."""
        train = self._data.train
        return EpochLoader(
            cast("Dataset[Any]", train),
            batch_sampler=RankBatches(
                self._get_train_sampler(),
                len(train),
                self.args.per_device_train_batch_size,
                self.context.crew,
            ),
            collate_fn=IdleCollator(self._data.engine.collate, train[len(train) - 1]),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _get_num_items_in_batch(
        self,
        batch_samples: list[Batch],
        device: torch.device,  # noqa: ARG002 - HF's signature
    ) -> int:
        """Trained tokens of an accumulation window.

        Raises:
            RunError: There are none.
        """
        (total,) = self.context.crew.total(sum(len(batch["targets"]) for batch in batch_samples))
        num_targets = int(total)
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
        """The batch's share of its window's mean loss per token."""
        assert num_items_in_batch, "a window is counted before its first batch"
        totals = HEADS[self._data.engine.head](model, inputs)
        self.ledger.add(
            loss_sum=totals.loss_sum.detach(),
            num_correct=totals.num_correct,
            num_targets=len(inputs["targets"]),
            num_tokens=inputs["num_tokens"],
        )
        loss_sum = totals.loss_sum
        if totals.balance is not None:
            loss_sum = loss_sum + totals.balance * len(inputs["targets"])
        # Gradients are averaged over the processes, where the loss wants their sum.
        return loss_sum * self.context.crew.size / num_items_in_batch

    def train(self, *args: Any, **options: Any) -> TrainOutput:  # noqa: ANN401 - HF's signature
        self._trained.train()
        return super().train(*args, **options)

    def training_step(
        self,
        model: nn.Module,
        inputs: Batch,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """As HF's, which sets all modules to training anew before every batch."""
        if callable(set_training := getattr(self.optimizer, "train", None)):
            set_training()
        with self.compute_loss_context_manager():
            loss = self.compute_loss(
                model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch
            )
        # DeepSpeed would divide by the number of batches once more.
        uses_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if uses_deepspeed else {}))
        return loss.detach()

    def floating_point_ops(self, inputs: Batch) -> int:  # noqa: ARG002 - HF's signature
        """Not counted: it would count every parameter of the model in every step."""
        return 0

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
        with self.given_weights(), self._in_16_bits():
            numbers = self._valid_numbers()
        self.ledger.evaluation_due = numbers is None
        if numbers is None:
            self.control.should_training_stop = True
            self.control.should_save = self.context.stop.saves
        else:
            self._publish({**numbers})
            # What was measured before the first change decides nothing.
            if is_worth_keeping(self.args, self.state.global_step):
                self._judge(numbers["valid_loss"])
                self.follow_loss(numbers["valid_loss"])
            with self.given_weights(), self._in_16_bits():
                self._sampling.answer(self._trained, self.state.global_step, self.context)
        self.context.reporter.enter("training")
        return numbers or {}

    def _in_16_bits(self) -> AbstractContextManager[object]:
        """What training itself sees to, once it has begun."""
        return in_16_bits(causal_model(self._trained), computation_dtype(self.config.model))

    def _valid_numbers(self) -> dict[str, float] | None:
        batch_size = self.args.per_device_eval_batch_size
        head = HEADS[self._data.engine.head]
        sums = [0.0, 0.0, 0.0]
        crew, valid = self.context.crew, self._data.valid
        collate = IdleCollator(self._data.engine.collate_valid, valid[0])
        together = batch_size * crew.size
        with evaluating(self._trained):
            for start in range(0, len(valid), together):
                if self.context.stop.look() is not None:
                    return None
                rows = part(range(start, min(start + together, len(valid))), crew)
                batch = collate([valid[row] for row in rows])
                with torch.no_grad(), self.accelerator.autocast():
                    totals = head(self._trained, self._prepare_inputs(batch))
                found = totals.loss_sum.item(), totals.num_correct.item(), len(batch["targets"])
                sums = [one + other for one, other in zip(sums, found, strict=True)]
                self.context.reporter.beat()
        sums = crew.total(*sums)
        loss, accuracy = sums[0] / sums[2], sums[1] / sums[2]
        return {
            "valid_loss": loss,
            "valid_mean_token_accuracy": accuracy,
            "valid_perplexity": perplexity(loss),
            # OpenAI's clients read the measurement of the whole set under these names.
            "full_valid_loss": loss,
            "full_valid_mean_token_accuracy": accuracy,
        }

    def _judge(self, valid_loss: float) -> None:
        self.control.should_save |= self.best.judge(valid_loss, self.state.global_step)
        patience = self.context.config.evaluation.early_stopping_patience
        has_stalled = patience and self.ledger.num_evaluations_without_gain >= patience
        if has_stalled and not self.ledger.is_done:
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
        self.context.trackers.write(step, numbers)

    # What is kept

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:  # noqa: ARG002
        """A whole checkpoint, its event, and the deletion of the oldest ones."""
        context, step = self.context, self.state.global_step
        context.reporter.enter("saving")
        target = context.directory.checkpoint(step)
        crew = context.crew
        rest(self)
        whole = crew.complete_folder(target, step=step, attempt=context.attempt)
        with self.given_weights(), whole as folder:
            shapes = write_weights(self._trained, folder, keeps=crew.is_first)
            save_state(self, folder, crew)
            if crew.is_first:
                if shapes:
                    check_adapter(folder, shapes)
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                self.ledger.write(folder)
        if crew.is_first:
            self._tell_saved(target)
            prune_checkpoints(context.directory, context.config.checkpoints.keep, self.best.step)
        context.reporter.enter("training")

    def _tell_saved(self, target: Path) -> None:
        step, context = self.state.global_step, self.context
        context.reporter.emit(
            CheckpointSaved(
                step=step,
                name=target.name,
                bytes=read_manifest(target).total_bytes,
                metrics=self._newest_numbers(),
                best_step=self.best.step,
            )
        )

    def _newest_numbers(self) -> Numbers:
        """Of a checkpoint: where metrics are due later, what is known of the steps until here."""
        numbers = dict(self.ledger.metrics)
        if self.ledger.num_targets:
            numbers |= self.ledger.window()
            numbers |= {"epoch": self.state.epoch, "trained_tokens": self.ledger.trained_tokens}
            for name in ("learning_rate", "grad_norm", "tokens_per_second"):
                numbers.pop(name, None)
        return numbers

    def _load_from_checkpoint(
        self,
        resume_from_checkpoint: str,
        model: nn.Module | None = None,
    ) -> None:
        """Nothing: `restore` has put the weights back."""

    def restore(self, checkpoint: Path) -> None:
        """Stand where the run stood when `checkpoint` was saved, without training on."""
        restore_weights(self._trained, checkpoint)
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.best.look()
        self.context.stop.can_keep = is_worth_keeping(self.args, self.state.global_step)
