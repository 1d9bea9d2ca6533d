"""How a loaded model is run: its attention, the shape of its batches, and its head.

Each is the leanest that the model itself, asked with made-up documents, answers rightly with.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from training.adapters import Trainable
from training.attention import BY_DOCUMENT, can_attend_by_document, in_16_bits, is_flash
from training.collation import (
    Collator,
    FlatCollator,
    PackedCollator,
    PaddedCollator,
    on_device,
)
from training.config import TrainingConfig
from training.evaluating import evaluating
from training.fused_lora import fuse_lora, unfuse_lora
from training.isolation import find_leak, made_up_documents, require_isolation
from training.liger import apply_liger, refused
from training.model import computation_dtype
from training.reference import Reference
from training.reporting import Reporter
from training.seq2seq_collation import Seq2SeqCollator


@dataclass(frozen=True)
class Engine:
    """How batches are made and their loss is computed.

    Attributes:
        collate: Makes batches of what is trained on: documents, or blocks of them.
        collate_valid: Makes batches of documents that are held out.
        head: One of `training.loss.HEADS`.
        idle: Names of trained parameters that took no part in the proof of the head.
    """

    collate: Collator
    collate_valid: Collator
    head: str
    idle: tuple[str, ...] = ()


def choose_engine(
    model: Trainable, config: TrainingConfig, pad_token_id: int, reporter: Reporter
) -> Engine:
    """Set the model's attention, and choose the batches and the head to go with it.

    A model that is split over processes cannot be asked before they have it: it keeps its
    attention, and packing is proven when training begins.

    Raises:
        RunError: Packing is asked for, and one document of a block would see another.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    with in_16_bits(base, computation_dtype(config.model)):
        engine = _chosen(model, base, config, pad_token_id)
    reporter.tell(
        _HEADS_IN_WORDS[engine.head],
        head=engine.head,
        attention=base.config._attn_implementation,
        batches=type(engine.collate).__name__,
    )
    if engine.idle:
        _warn_of_idle(engine.idle, reporter)
    return engine


def _chosen(
    model: Trainable, base: PreTrainedModel, config: TrainingConfig, pad_token_id: int
) -> Engine:
    if config.model.use_liger_kernel:
        _apply_liger(model, base, is_whole=not config.parallelism.splits_the_model)
    padded = PaddedCollator(pad_token_id)
    in_rows = _packed(base, pad_token_id) if config.data.packing else padded
    if base.config.is_encoder_decoder:
        return _two_sided(model, base, config, pad_token_id)
    if config.parallelism.splits_the_model:
        return Engine(in_rows, padded, _unproven_head(base))
    with evaluating(model):
        return _proven(model, base, config, in_rows, padded)


def _packed(base: PreTrainedModel, pad_token_id: int) -> Collator:
    """Flash attention has no mask: in several rows it would take each for one document."""
    return FlatCollator(tells_lengths=True) if is_flash(base) else PackedCollator(pad_token_id)


def _proven(
    model: Trainable,
    base: PreTrainedModel,
    config: TrainingConfig,
    in_rows: Collator,
    padded: Collator,
) -> Engine:
    """What a model of one side, all of it in this process, was seen to answer rightly with."""
    vocab_size: int = base.config.get_text_config().vocab_size
    flat = _flat_collator(model, base, config, vocab_size)
    if flat is None and config.data.packing:
        require_isolation(model, vocab_size, in_rows)
    reference = Reference(model, on_device(padded(made_up_documents(vocab_size, 2)), model.device))
    head = _leanest_head(model, reference, fuses=not config.optimization.torch_compile)
    return Engine(flat or in_rows, flat or padded, head, reference.idle)


def _warn_of_idle(idle: Sequence[str], reporter: Reporter) -> None:
    layers = {_IN_A_LAYER.split(name)[0].rpartition(".")[2] for name in idle}
    reporter.warn(
        "The loss of a probe does not depend on what is to be trained of "
        f"{', '.join(sorted(layers))}: if the model never uses it, it learns nothing.",
        parameters=sorted(idle),
    )


_IN_A_LAYER = re.compile(r"\.(?:base_layer|lora_|modules_to_save|token_adapter|weight|bias)")


def _apply_liger(model: Trainable, base: PreTrainedModel, *, is_whole: bool) -> None:
    """Put Liger's kernels into the model.

    Raises:
        RunError: It has none for it, or they would train another model.
    """
    if not is_whole:
        apply_liger(base)
        return
    probe = PaddedCollator(0)(made_up_documents(base.config.get_text_config().vocab_size, 2))
    reference = Reference(model, on_device(probe, model.device))
    apply_liger(base)
    if not reference.is_kept():
        raise refused("Liger's kernels compute another loss than this model's own layers.")


def _leanest_head(model: Trainable, reference: Reference, *, fuses: bool) -> str:
    """One of `HEADS`; each LoRA layer becomes one operation, if that changes nothing."""
    if fuses and fuse_lora(model):
        if head := reference.leanest_head():
            return head
        unfuse_lora(model)
    return reference.leanest_head() or "whole"


def _two_sided(
    model: Trainable, base: PreTrainedModel, config: TrainingConfig, pad_token_id: int
) -> Engine:
    """A model with an encoder keeps its attention, and is never given packed rows."""
    shift = cast("Callable[[Tensor], Tensor]", base.prepare_decoder_input_ids_from_labels)
    collate = Seq2SeqCollator(pad_token_id, shift)
    if config.parallelism.splits_the_model:
        return Engine(collate, collate, _unproven_head(base))
    probe = collate(made_up_documents(base.config.get_text_config().vocab_size, 2))
    reference = Reference(model, on_device(probe, model.device))
    head = _leanest_head(model, reference, fuses=False)
    return Engine(collate, collate, head, reference.idle)


def _flat_collator(
    model: Trainable, base: PreTrainedModel, config: TrainingConfig, vocab_size: int
) -> FlatCollator | None:
    """All documents of a batch in one row, if the model has an attention that is made for it.

    The noise of NEFTune goes by the length of a row, which is then a document's, or a block's.
    """
    attention = str(base.config._attn_implementation)
    has_flash = is_flash(base)
    is_noisy = config.optimization.neftune_noise_alpha is not None and not config.data.packing
    if (
        config.optimization.torch_compile
        or is_noisy
        or not (has_flash or can_attend_by_document(base))
    ):
        return None
    flat = FlatCollator(tells_lengths=has_flash)
    if not has_flash:
        base.set_attn_implementation(BY_DOCUMENT)
    if find_leak(model, vocab_size, flat) is None:
        return flat
    base.set_attn_implementation(attention)
    return None


def _unproven_head(base: PreTrainedModel) -> str:
    """The model's own, on the tokens that take loss if it can choose them."""
    return "selected" if "logits_to_keep" in inspect.signature(base.forward).parameters else "whole"


_HEADS_IN_WORDS = {
    "streamed": "The loss is computed on the tokens that take loss, a few at a time.",
    "selected": "The loss is computed through the model's own head on the tokens that take loss.",
    "whole": "The loss is computed through the model's own head on every token: it needs them all.",
}
