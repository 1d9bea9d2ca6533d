"""The recipe of a run: from the run directory to the result in it, top to bottom."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase, set_seed

from training.adapters import ADAPTERS, Origin, Trainable, trainable_parameters
from training.added_tokens import Vocabulary
from training.callbacks import Sampling
from training.card import Card
from training.checkpoint import check_goes_on, restore_weights, saved_adapter
from training.config import TrainingConfig, resolved
from training.context import RunContext
from training.data import DataPlan, plan_data
from training.distributed import Crew, meet
from training.encoding import Encoder
from training.engine import choose_engine
from training.events import Finished
from training.export import Exported, export
from training.failures import RunError, invalid_spec, unfit
from training.held_out import held_out_misfits
from training.inspection import context_length
from training.layouts import Layout, choose_layout
from training.ledger import Ledger, read_ledger
from training.model import (
    check_device,
    load_config,
    load_model,
    load_vocabulary,
    settings_after,
    slow_precision,
    stop_ids,
)
from training.packing import Blocks, pack
from training.prepared import Shelf
from training.reading import DataReader
from training.reporting import Reporter
from training.run_directory import RunDirectory
from training.run_spec import RunSpec, StartSource
from training.seq2seq_encoding import encoder_type
from training.state_files import rest
from training.stopping import StopSignal
from training.strategies import check_strategy, in_parts_from_the_start
from training.trackers import Trackers, open_trackers
from training.trainer import FineTuner, TrainingData

_ALONE = Crew()


@dataclass(frozen=True)
class Prepared:
    """A run whose data is tokens and whose configuration has nothing left to choose.

    Attributes:
        settings: Of generation, where the model's own will not do any more.
    """

    spec: RunSpec
    config: TrainingConfig
    vocabulary: Vocabulary
    layout: Layout
    encoder: Encoder
    settings: GenerationConfig | None
    plan: DataPlan

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.vocabulary.tokenizer


def run(
    directory: RunDirectory,
    spec: RunSpec,
    checkpoint: Path | None,
    reporter: Reporter,
    stop: StopSignal,
    crew: Crew = _ALONE,
) -> Finished:
    """Do what `spec` says in `directory`, or go on with it from a verified checkpoint.

    Raises:
        training.failures.RunError: With the reason, for the owner of the run.
        training.failures.StopRequested: A TERM ended the run before its result.
    """
    meet(crew, spec.training)
    with crew.first_ahead():
        prepared = _prepare(directory, spec, reporter)
    reporter.enter("loading_model")
    with in_parts_from_the_start(prepared.config, crew):
        model = _trainable_model(prepared, checkpoint, reporter)
    with _trackers(directory, prepared, reporter, crew) as trackers:
        context = RunContext(
            directory, prepared.config, spec.seed, spec.attempt, reporter, stop, trackers, crew
        )
        tuner = _tuner(model, prepared, context, checkpoint)
        with stop.deferred():
            _train(tuner, checkpoint)
    stopped_early = not tuner.ledger.is_done
    if stopped_early:
        _tell_stop(tuner, reporter)
    reporter.enter("exporting")
    _export(model, tuner, prepared)
    return Finished(
        outcome="succeeded",
        step=tuner.state.global_step,
        stopped_early=stopped_early,
        trained_tokens=tuner.ledger.trained_tokens,
        metrics=tuner.ledger.metrics,
    )


def _prepare(directory: RunDirectory, spec: RunSpec, reporter: Reporter) -> Prepared:
    """Read the data before the weights: a mistake in it should not wait for a large model."""
    reporter.enter("tokenizing")
    folder = Path(spec.model_path)
    check_device(spec.training.model)
    model_config = load_config(folder)
    has_encoder = bool(model_config.is_encoder_decoder)
    check_strategy(spec.training, has_encoder=has_encoder)
    vocabulary = load_vocabulary(folder, spec.training.model)
    tokenizer = vocabulary.tokenizer
    positions = context_length(model_config)
    data = resolved(spec.training, num_rows=1, context_length=positions).data
    if data.max_length is not None and data.max_length > positions:
        raise invalid_spec(
            f"max_length {data.max_length} is beyond the model's context of {positions} tokens.",
            param="training.data.max_length",
            remedy=f"Set training.data.max_length to {positions} or less, or to null.",
        )
    formats = {source.format for source in (*spec.training_files, *spec.validation_files)}
    layout = choose_layout(tokenizer, data, formats, has_encoder=has_encoder)
    own_ends = stop_ids(folder, model_config)
    encoder = encoder_type(has_encoder=has_encoder)(
        tokenizer,
        layout,
        train_on=data.train_on,
        stop_ids=own_ends,
    )
    plan = plan_data(
        DataReader(encoder, data, _shelf(directory, spec), reporter.beat),
        spec.training_files,
        spec.validation_files,
        data,
        spec.seed,
    )
    _tell_data(plan, reporter)
    for misfit in held_out_misfits(spec.training, has_rows=bool(plan.valid)):
        raise unfit(misfit)
    config = resolved(spec.training, num_rows=plan.num_train_rows, context_length=positions)
    _tell_ends(encoder.ends - own_ends, tokenizer, reporter)
    settings = settings_after(folder, model_config, encoder.ends, vocabulary.roles)
    return Prepared(spec, config, vocabulary, layout, encoder, settings, plan)


def _shelf(directory: RunDirectory, spec: RunSpec) -> Shelf:
    """Where prepared data is kept: for all runs of this host, or for the attempts of this one."""
    if spec.prepared is None:
        return Shelf(directory.documents)
    return Shelf(Path(spec.prepared.path), spec.prepared.max_bytes)


def _tell_data(plan: DataPlan, reporter: Reporter) -> None:
    tell = reporter.warn if plan.counts.dropped else reporter.tell
    tell(plan.in_words(), **plan.as_facts())
    reporter.tell(
        plan.preparation_in_words(),
        files=plan.num_files,
        files_found_prepared=plan.num_found,
        seconds=plan.seconds,
    )


def _tell_ends(
    new: Collection[int], tokenizer: PreTrainedTokenizerBase, reporter: Reporter
) -> None:
    """A server that knows the base's settings only would let the model run on."""
    if new:
        ends = tokenizer.convert_ids_to_tokens(sorted(new))
        reporter.tell(
            f"By its own settings the base does not stop at {' or '.join(ends)}, with which an "
            "answer or a text ends; by generation_config.json of the result it does.",
            ends=ends,
        )


def _trainable_model(prepared: Prepared, checkpoint: Path | None, reporter: Reporter) -> Trainable:
    """The base with what is trained of it; the seed is set first, so that it decides the start."""
    spec, config = prepared.spec, prepared.config
    base = load_model(Path(spec.model_path), config)
    set_seed(spec.seed)
    folder = checkpoint or (None if spec.start is None else Path(spec.start.path))
    saved = None if folder is None else saved_adapter(folder)
    vocabulary = prepared.vocabulary if config.model.adds_tokens else None
    origin = Origin(spec.base_model, Path(spec.model_path), saved, vocabulary)
    model = ADAPTERS[config.adapter.type](base, config.adapter, origin)
    if spec.start is not None and isinstance(model, PeftModel):
        _go_on(model, spec.start, checkpoint, reporter)
    if isinstance(model, PeftModel) and config.optimization.gradient_checkpointing:
        # Recomputed layers see no gradient behind a frozen embedding otherwise.
        base.enable_input_require_grads()  # type: ignore[no-untyped-call]
    if advice := slow_precision(config.model):
        reporter.warn(advice)
    trained, everything = trainable_parameters(model)
    reporter.tell(
        f"{trained:,} of {everything:,} parameters are trained ({trained / everything:.2%}).",
        trained_parameters=trained,
        parameters=everything,
    )
    return model


def _go_on(
    model: PeftModel, start: StartSource, checkpoint: Path | None, reporter: Reporter
) -> None:
    """Take over the weights to start from, unless a checkpoint has newer ones."""
    folder = Path(start.path)
    check_goes_on(model, folder)
    if checkpoint is None:
        restore_weights(model, folder)
    reporter.tell(f"Training goes on from {start.name}.", start=start.name)


def _tuner(
    model: Trainable, prepared: Prepared, context: RunContext, checkpoint: Path | None
) -> FineTuner:
    plan, data = prepared.plan, prepared.config.data
    engine = choose_engine(
        model, prepared.config, prepared.tokenizer.pad_token_id, context.reporter
    )
    training_data = TrainingData(plan.train, plan.valid, engine)
    if data.packing:
        block_size = data.block_size or data.max_length
        assert block_size is not None, "the configuration is not resolved"
        order, ends = pack(plan.train.lengths, block_size, context.seed)
        blocks = Blocks(plan.train, order, ends)
        share = plan.train.num_tokens / (len(blocks) * block_size)
        context.reporter.tell(
            f"{len(plan.train)} rows packed into {len(blocks)} blocks, {share:.1%} full.",
            blocks=len(blocks),
            share_filled=share,
        )
        training_data = TrainingData(blocks, plan.valid, engine)
    ledger = _ledger(checkpoint, context.crew)
    sampling = Sampling(prepared.tokenizer, prepared.encoder)
    return FineTuner(model, training_data, context, ledger, sampling)


def _trackers(
    directory: RunDirectory, prepared: Prepared, reporter: Reporter, crew: Crew
) -> AbstractContextManager[Trackers]:
    """The run's trackers, in the process that tells of it."""
    if not crew.is_first:
        return nullcontext(Trackers([]))
    return open_trackers(directory, prepared.spec, prepared.config, reporter)


def _ledger(checkpoint: Path | None, crew: Crew) -> Ledger:
    if checkpoint is None:
        return Ledger(num_processes=crew.size)
    ledger = read_ledger(checkpoint)
    if ledger.num_processes != crew.size:
        raise RunError(
            "checkpoint_mismatch",
            f"{checkpoint.name} is in {ledger.num_processes} parts, one for each process that made "
            f"it, and {crew.size} are to go on from it.",
            fault="spec",
            param="training.parallelism.num_processes",
            remedy=f"Resume with {ledger.num_processes} processes, or start a new job.",
        )
    return ledger


def _train(tuner: FineTuner, checkpoint: Path | None) -> None:
    context = tuner.context
    if checkpoint is not None:
        tuner.restore(checkpoint)
    if tuner.is_evaluation_due and tuner.can_evaluate:
        tuner.evaluate()
    context.reporter.enter("training")
    if not tuner.ledger.is_done and context.stop.look() is None:
        if context.crew.size > 1:
            torch.manual_seed(context.seed + context.crew.rank)  # other dropout for other rows
        tuner.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _tell_stop(tuner: FineTuner, reporter: Reporter) -> None:
    step, total_steps = tuner.state.global_step, tuner.args.max_steps
    reporter.tell(
        f"Stopped on request at step {step} of {total_steps}.", step=step, total_steps=total_steps
    )


def _export(model: Trainable, tuner: FineTuner, prepared: Prepared) -> None:
    spec, ledger, last_step = prepared.spec, tuner.ledger, tuner.state.global_step
    best_step = tuner.best.take(model, last_step)
    card = Card(
        name=spec.name,
        base_model=spec.base_model,
        start=None if spec.start is None else spec.start.name,
        config=prepared.config,
        seed=spec.seed,
        num_steps=last_step if best_step is None else best_step,
        data_in_words=prepared.plan.in_words(),
        metrics=ledger.metrics if best_step is None else ledger.best_metrics,
        has_encoder=bool(model.config.is_encoder_decoder),
        has_settings=prepared.settings is not None,
    )
    exported = Exported(prepared.tokenizer, prepared.layout.template, prepared.settings, card)
    rest(tuner)
    export(model, tuner.context.directory.result, exported, tuner.context.crew)
