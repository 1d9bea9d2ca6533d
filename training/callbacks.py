"""What happens between steps: when to measure, save and stop, and what is told meanwhile."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.adapters import Trainable
from training.context import RunContext
from training.encoding import Encoder
from training.evaluating import evaluating
from training.events import Progress, Sample
from training.failures import RunError
from training.inspection import context_length
from training.ledger import Ledger

_RECENT_STEPS = 20


class Pace:
    """How fast the recent steps were; evaluation and saving do not count."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=_RECENT_STEPS)
        self._began_at = 0.0
        self._tokens_before = 0

    def begin(self, trained_tokens: int) -> None:
        self._began_at, self._tokens_before = time.monotonic(), trained_tokens

    def end(self, trained_tokens: int) -> None:
        seconds = time.monotonic() - self._began_at
        self._steps.append((seconds, trained_tokens - self._tokens_before))

    @property
    def seconds_per_step(self) -> float | None:
        return self._seconds / len(self._steps) if self._steps else None

    @property
    def tokens_per_second(self) -> float | None:
        return sum(tokens for _, tokens in self._steps) / self._seconds if self._steps else None

    @property
    def _seconds(self) -> float:
        return max(sum(seconds for seconds, _ in self._steps), 1e-9)


def is_worth_keeping(args: TrainingArguments, step: int) -> bool:
    """Whether the model has changed by now: the first step of a warm-up has a rate of 0."""
    return step > (1 if args.warmup_steps else 0)


class Beginning(TrainerCallback):
    """Does something when the model is ready to be trained."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_train_begin(self, *_args: object, **_kwargs: object) -> None:
        self._action()


class Flow(TrainerCallback):
    """Decides at every step boundary what follows, and tells how far the run is."""

    def __init__(self, context: RunContext, ledger: Ledger, pace: Pace, *, evaluates: bool) -> None:
        self._context = context
        self._ledger = ledger
        self._pace = pace
        self._evaluates = evaluates

    def on_step_begin(self, *_args: object, **_kwargs: object) -> None:
        self._pace.begin(self._ledger.trained_tokens)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_kwargs: object,
    ) -> None:
        self._ledger.close_step(self._context.crew.total)
        if not math.isfinite(self._ledger.loss_sum):
            raise _nan_loss(state.global_step)
        self._pace.end(self._ledger.trained_tokens)
        is_last = state.global_step >= args.max_steps
        self._ledger.is_done = is_last
        self._context.stop.can_keep = is_worth_keeping(args, state.global_step)
        every = self._context.config.evaluation.eval_steps
        control.should_evaluate = self._evaluates and (is_last or state.global_step % every == 0)
        control.should_log |= is_last
        self._heed_stop(control)
        self._tell(state.global_step, args.max_steps, state.epoch)

    def _heed_stop(self, control: TrainerControl) -> None:
        stop = self._context.stop
        if stop.look() is None:
            return
        control.should_training_stop = True
        control.should_save = stop.saves
        control.should_log |= stop.reason == "stop"
        # What is due now is measured by whoever goes on from the checkpoint.
        self._ledger.evaluation_due = control.should_evaluate
        control.should_evaluate = False

    def _tell(self, step: int, max_steps: int, epoch: float | None) -> None:
        seconds = self._pace.seconds_per_step
        progress = Progress(
            phase="training",
            step=step,
            total_steps=max_steps,
            epoch=epoch,
            train_loss=self._ledger.train_loss,
            tokens_per_second=self._pace.tokens_per_second,
            eta_seconds=None if seconds is None else seconds * (max_steps - step),
        )
        self._context.reporter.advance(progress, urgent=step == max_steps)


class Sampling:
    """Answers the sample prompts, greedily, so that no random number is drawn.

    Of a prompt that is longer than the model's context, the end is answered.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder

    def answer(self, model: Trainable, step: int, context: RunContext) -> None:
        """Emit a `Sample` for every prompt, until a stop is requested."""
        settings = context.config.evaluation
        with evaluating(model):
            for prompt in settings.sample_prompts:
                if context.stop.look() is not None:
                    break
                text = self._complete(model, prompt, settings.sample_max_new_tokens)
                context.reporter.emit(Sample(step=step, prompt=prompt, completion=text))

    @torch.no_grad()
    def _complete(self, model: Trainable, prompt: str, max_new_tokens: int) -> str:
        context = context_length(model.config.get_text_config())
        given = self._encoder.prompt_ids(prompt)[1 - context :] or [self._tokenizer.eos_token_id]
        # A decoder of its own begins with a token that stands for the beginning of an answer.
        num_before = 1 if model.config.is_encoder_decoder else len(given)
        ids_1T = torch.tensor([given], device=model.device)
        generate = cast("Callable[..., Tensor]", model.generate)
        answer_1T = generate(
            input_ids=ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=min(max_new_tokens, context - num_before),
            eos_token_id=sorted(self._encoder.ends),
            pad_token_id=self._tokenizer.pad_token_id,
            use_cache=True,
        )
        new_ids_T = answer_1T[0, num_before:]
        return str(self._tokenizer.decode(new_ids_T, skip_special_tokens=True))


def _nan_loss(step: int) -> RunError:
    return RunError(
        "nan_loss",
        f"The loss is not a finite number at step {step}.",
        fault="spec",
        param="training.optimization.learning_rate",
        remedy="Lower the learning rate, warm up longer, or use bfloat16 or float32.",
    )
