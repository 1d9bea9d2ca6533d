"""The recipe of a run: from the run directory to the result in it, top to bottom."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, set_seed

from training.adapters import ADAPTERS, Trainable, trainable_parameters
from training.callbacks import Sampling
from training.card import Card
from training.collation import PackedCollator, PaddedCollator
from training.config import RunSpec, TrainingConfig, resolved
from training.context import RunContext
from training.data import DataPlan, DataReader, plan_data
from training.encoding import Encoder
from training.events import Finished
from training.export import Exported, export
from training.failures import invalid_spec
from training.inspection import context_length
from training.ledger import Ledger, read_ledger
from training.model import (
    check_device,
    load_config,
    load_model,
    load_tokenizer,
    slow_precision,
    stop_ids,
)
from training.packing import check_isolation, pack
from training.reporting import Reporter
from training.run_directory import RunDirectory
from training.stopping import StopSignal
from training.templates import alpaca_template, chat_template
from training.trainer import FineTuner, TrainingData


@dataclass(frozen=True)
class Prepared:
    """A run whose data is tokens and whose configuration has nothing left to choose."""

    spec: RunSpec
    config: TrainingConfig
    tokenizer: PreTrainedTokenizerBase
    template: str | None
    encoder: Encoder
    plan: DataPlan


def run(
    directory: RunDirectory,
    spec: RunSpec,
    checkpoint: Path | None,
    reporter: Reporter,
    stop: StopSignal,
) -> Finished:
    """Do what `spec` says in `directory`, or go on with it from a verified checkpoint.

    Raises:
        training.failures.RunError: With the reason, for the owner of the run.
        training.failures.StopRequested: A TERM ended the run before its result.
    """
    prepared = _prepare(spec, reporter)
    reporter.enter("loading_model")
    model = _trainable_model(prepared, reporter)
    context = RunContext(directory, prepared.config, spec.seed, spec.attempt, reporter, stop)
    tuner = _tuner(model, prepared, context, checkpoint)
    with stop.deferred():
        _train(tuner, checkpoint)
    reporter.enter("exporting")
    _export(model, tuner, prepared)
    return Finished(
        outcome="succeeded",
        step=tuner.state.global_step,
        trained_tokens=tuner.ledger.trained_tokens,
        metrics=tuner.ledger.metrics,
    )


def _prepare(spec: RunSpec, reporter: Reporter) -> Prepared:
    """Read the data before the weights: a mistake in it should not wait for a large model."""
    reporter.enter("tokenizing")
    folder = Path(spec.model_path)
    check_device(spec.training.model)
    model_config, tokenizer = load_config(folder), load_tokenizer(folder)
    positions = context_length(model_config)
    data = resolved(spec.training, num_rows=1, context_length=positions).data
    if data.max_length is not None and data.max_length > positions:
        raise invalid_spec(
            f"max_length {data.max_length} is beyond the model's context of {positions} tokens.",
            param="training.data.max_length",
        )
    formats = {source.format for source in (*spec.training_files, *spec.validation_files)}
    template = chat_template(tokenizer, data.template, formats)
    encoder = Encoder(
        tokenizer,
        template,
        train_on=data.train_on,
        alpaca=template == alpaca_template(),
        stop_ids=stop_ids(folder, model_config),
    )
    plan = plan_data(
        DataReader(encoder, data, reporter.beat),
        spec.training_files,
        spec.validation_files,
        eval_split=data.eval_split,
        seed=spec.seed,
    )
    _tell_data(plan, reporter)
    config = resolved(spec.training, num_rows=plan.num_train_rows, context_length=positions)
    return Prepared(spec, config, tokenizer, template, encoder, plan)


def _tell_data(plan: DataPlan, reporter: Reporter) -> None:
    tell = reporter.warn if plan.counts.dropped else reporter.tell
    tell(plan.in_words(), **plan.as_facts())


def _trainable_model(prepared: Prepared, reporter: Reporter) -> Trainable:
    """The base with what is trained of it; the seed is set first, so that it decides the start."""
    spec, config = prepared.spec, prepared.config
    base = load_model(Path(spec.model_path), config)
    set_seed(spec.seed)
    model = ADAPTERS[config.adapter.type](base, config.adapter, spec.base_model)
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
        attention=base.config._attn_implementation,
    )
    if config.data.packing:
        check_isolation(model, base.config.get_text_config().vocab_size)
    return model


def _tuner(
    model: Trainable, prepared: Prepared, context: RunContext, checkpoint: Path | None
) -> FineTuner:
    pad_token_id = prepared.tokenizer.pad_token_id
    padded = PaddedCollator(pad_token_id)
    plan, data = prepared.plan, prepared.config.data
    if data.packing:
        assert data.max_length is not None, "the configuration is not resolved"
        blocks = pack(plan.train, data.max_length)
        share = plan.num_tokens / (len(blocks) * data.max_length)
        context.reporter.tell(
            f"{len(plan.train)} rows packed into {len(blocks)} blocks, {share:.1%} full.",
            blocks=len(blocks),
            share_filled=share,
        )
        flatten = model.config._attn_implementation == "flash_attention_2"
        collate = PackedCollator(pad_token_id, flatten=flatten)
        training_data = TrainingData(blocks, plan.valid, collate, padded)
    else:
        training_data = TrainingData(plan.train, plan.valid, padded, padded)
    ledger = read_ledger(checkpoint) if checkpoint else Ledger()
    sampling = Sampling(prepared.tokenizer, prepared.encoder)
    return FineTuner(model, training_data, context, ledger, sampling)


def _train(tuner: FineTuner, checkpoint: Path | None) -> None:
    context = tuner.context
    if checkpoint is not None:
        tuner.restore(checkpoint)
        if tuner.ledger.evaluation_due:
            tuner.evaluate()
    context.reporter.enter("training")
    if not tuner.ledger.is_done and context.stop.reason is None:
        tuner.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _export(model: Trainable, tuner: FineTuner, prepared: Prepared) -> None:
    spec = prepared.spec
    card = Card(
        name=spec.name,
        base_model=spec.base_model,
        config=prepared.config,
        seed=spec.seed,
        num_steps=tuner.state.global_step,
        data_in_words=prepared.plan.in_words(),
        metrics=tuner.ledger.metrics,
    )
    stop_ids = frozenset(prepared.encoder.stop_ids)
    exported = Exported(prepared.tokenizer, prepared.template, stop_ids, card)
    export(model, tuner.context.directory.result, exported)
