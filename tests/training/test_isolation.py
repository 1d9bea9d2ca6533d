"""No document of a block sees another one: as the model is trained, and as it is measured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.training.architectures import ARCHITECTURES, VOCAB_SIZE, tiny
from tests.training.runs import prepare, train
from training.attention import BY_DOCUMENT, Segments, attend_by_document
from training.collation import Batch, Collator, FlatCollator, PackedCollator, PaddedCollator
from training.config import TrainingConfig
from training.documents import Document
from training.engine import choose_engine
from training.events import EventWriter, Message, read_events
from training.failures import RunError
from training.isolation import find_leak, require_isolation
from training.loss import model_inputs
from training.model import load_model
from training.reporting import Reporter

PAD = 0
LEAKING = {"bamba", "bloom", "gpt_oss", "granitemoehybrid", "lfm2", "mamba", "opt", "qwen3_next"}
"""States that run on, places that do not restart, and a mask that is not told of them."""
ROWS = PackedCollator(PAD)
PRECISIONS: list[dict[str, Any]] = [
    {"dtype": dtype, "quantization": {"bits": bits} if bits else None}
    for dtype in ("float32", "bfloat16")
    for bits in (None, 4, 8)
]


def document(length: int, seed: int) -> Document:
    """Random tokens, all of which say that they take loss."""
    ids = np.random.default_rng(seed).integers(3, VOCAB_SIZE, length, dtype=np.int32)
    return Document(ids, np.ones(length, dtype=np.bool_))


BLOCKS = [
    [document(7, 0), document(1, 1), document(5, 2)],
    [document(1, 3), document(9, 4)],
]
"""Of unequal length, so that one has padding behind it; two documents are one token long."""


def logits_of(model: PreTrainedModel, batch: Batch) -> Tensor:
    logits: Tensor = model(**model_inputs(batch)).logits
    return logits


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_rows", [1, 2])
@pytest.mark.parametrize("way", ["rows", "flat"])
def test_packed_logits_are_those_of_single_documents(
    way: str, num_rows: int, *, training: bool, checkpointing: bool
) -> None:
    model = tiny("llama")
    model.config.use_cache = True  # as a model comes; batches turn it off
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    blocks = BLOCKS[:num_rows]
    expected = [logits_of(model, PaddedCollator(PAD)([each]))[0] for row in blocks for each in row]
    model.train(training)
    if way == "flat":
        model.set_attn_implementation(BY_DOCUMENT)
        found_T = logits_of(model, FlatCollator()(blocks))[0]
    else:
        found_BT = logits_of(model, ROWS(blocks))
        lengths = [sum(map(len, row)) for row in blocks]
        found_T = torch.cat([row[:n] for row, n in zip(found_BT, lengths, strict=True)])
    torch.testing.assert_close(found_T, torch.cat(expected), atol=1e-5, rtol=0)


def test_a_mask_of_ones_or_a_cache_would_mix_documents() -> None:
    """What batches leave out, and why: transformers takes the row for one document."""
    model = tiny("llama")
    inputs = model_inputs(ROWS([BLOCKS[0]]))
    apart = model(**inputs).logits
    ones = torch.ones_like(inputs["input_ids"])
    assert (model(**inputs, attention_mask=ones).logits - apart).abs().max() > 1e-3
    assert (model(**(inputs | {"use_cache": True})).logits - apart).abs().max() > 1e-3


@pytest.mark.parametrize("collate", [ROWS, FlatCollator(), FlatCollator(tells_lengths=True)])
def test_packed_batches_have_no_mask_and_no_cache(collate: Collator) -> None:
    inputs = model_inputs(collate(BLOCKS))
    assert "attention_mask" not in inputs
    assert inputs["use_cache"] is False


@pytest.mark.parametrize("collate", [ROWS, FlatCollator(), FlatCollator(tells_lengths=True)])
def test_the_first_token_of_a_document_is_no_target(collate: Collator) -> None:
    batch = collate(BLOCKS)
    documents = [each for row in BLOCKS for each in row]
    assert len(batch["targets"]) == sum(len(each) - 1 for each in documents)
    expected = np.concatenate([each.input_ids[1:] for each in documents])
    assert batch["targets"].tolist() == expected.tolist()
    # Each is predicted from the token before it, which is one of the same document.
    positions = batch["position_ids"].flatten()
    assert (positions[batch["places"] + 1] == positions[batch["places"]] + 1).all()


def test_flash_attention_is_told_where_documents_begin() -> None:
    batch = FlatCollator(tells_lengths=True)(BLOCKS)
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    total = batch["input_ids"].shape[1]
    assert batch["input_ids"].shape[0] == 1
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        assert batch[name].dtype == torch.int32
        assert batch[name].tolist() == [*starts, total]
    for name in ("max_length_q", "max_length_k"):
        assert type(batch[name]) is int
        assert batch[name] == 9
    assert total == batch["num_tokens"] == sum(len(each) for row in BLOCKS for each in row)
    assert {"cu_seq_lens_q", "max_length_k"} <= model_inputs(batch).keys()


def leaks(architecture: str, collate: Collator) -> str | None:
    return find_leak(tiny(architecture), VOCAB_SIZE, collate)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_that_would_mix_documents_are_known(architecture: str) -> None:
    assert bool(leaks(architecture, ROWS)) is (architecture in LEAKING)


@pytest.fixture
def reporter(tmp_path: Path) -> Iterator[Reporter]:
    writer = EventWriter(tmp_path / "events.jsonl")
    yield Reporter(writer)
    writer.close()


def config(*, packing: bool = True, **optimization: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"data": {"packing": packing}, "optimization": optimization}
    )


@pytest.mark.parametrize("architecture", sorted(LEAKING))
def test_packing_is_refused_for_them_and_padding_is_not(
    architecture: str, reporter: Reporter
) -> None:
    model = tiny(architecture)
    with pytest.raises(RunError, match="cannot keep packed documents apart") as caught:
        choose_engine(model, config(), PAD, reporter)
    assert caught.value.failure.param == "training.data.packing"
    engine = choose_engine(model, config(packing=False), PAD, reporter)
    assert isinstance(engine.collate, PaddedCollator)
    assert isinstance(engine.collate_valid, PaddedCollator)
    assert model.config._attn_implementation in {"eager", "sdpa"}


@pytest.mark.parametrize("packing", [True, False])
def test_documents_share_a_row_wherever_the_model_can_keep_them_apart(
    reporter: Reporter, *, packing: bool
) -> None:
    model = tiny("qwen3")
    engine = choose_engine(model, config(packing=packing), PAD, reporter)
    assert engine.collate == engine.collate_valid == FlatCollator()
    assert model.config._attn_implementation == BY_DOCUMENT


def test_the_noise_of_neftune_goes_by_the_length_of_a_document(reporter: Reporter) -> None:
    engine = choose_engine(
        tiny("qwen3"), config(packing=False, neftune_noise_alpha=5), PAD, reporter
    )
    assert isinstance(engine.collate, PaddedCollator)


def test_without_an_attention_of_their_own_documents_lie_in_rows_behind_a_mask(
    reporter: Reporter,
) -> None:
    engine = choose_engine(tiny("gemma2"), config(), PAD, reporter)
    assert engine.collate == ROWS
    assert engine.collate_valid == PaddedCollator(PAD)


def attend_as_flash(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    position_ids: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """In place of flash attention, which needs a GPU: no float32, no mask, and documents only
    where it is told of them, or in a row alone."""
    if query.dtype == torch.float32:
        if not torch.is_autocast_enabled("cpu"):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        query, key, value = (x.bfloat16() for x in (query, key, value))
    if cu_seq_lens_q is not None:
        lengths = cu_seq_lens_q.diff().tolist()
    elif position_ids is not None and len(query) == 1:
        starts = (position_ids[0] == 0).nonzero().flatten()
        lengths = torch.cat([starts, torch.tensor([query.shape[2]])]).diff().tolist()
    else:
        lengths = [query.shape[2]]
    return attend_by_document(
        module, query, key, value, Segments(lengths, [None] * len(lengths)), **options
    )


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """A model of float32 weights that has flash attention."""
    functions = ALL_ATTENTION_FUNCTIONS._global_mapping
    monkeypatch.setitem(functions, "flash_attention_2", attend_as_flash)
    model = tiny("llama")
    model.config._attn_implementation = "flash_attention_2"
    return model


@pytest.mark.parametrize("packing", [True, False])
def test_float32_weights_are_asked_in_16_bits_where_flash_attention_needs_them(
    flash: PreTrainedModel, reporter: Reporter, *, packing: bool
) -> None:
    engine = choose_engine(flash, config(packing=packing), PAD, reporter)
    assert engine.collate == engine.collate_valid == FlatCollator(tells_lengths=True)
    assert engine.head == "streamed"
    assert flash.config._attn_implementation == "flash_attention_2"
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("way", ["fsdp", "zero3", "compiled"])
def test_flash_attention_is_told_of_documents_where_it_cannot_be_asked(
    flash: PreTrainedModel, reporter: Reporter, way: str
) -> None:
    settings: dict[str, Any] = {"data": {"packing": True}}
    if way == "compiled":
        settings["optimization"] = {"torch_compile": True}
    else:
        settings["parallelism"] = {"strategy": way, "num_processes": 2}
    engine = choose_engine(flash, TrainingConfig.model_validate(settings), PAD, reporter)
    assert engine.collate == FlatCollator(tells_lengths=True)


def test_a_leak_between_several_rows_alone_is_seen(flash: PreTrainedModel) -> None:
    flash.to(torch.bfloat16)
    assert find_leak(flash, VOCAB_SIZE, ROWS) is not None
    assert find_leak(flash, VOCAB_SIZE, FlatCollator(tells_lengths=True)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["mamba", "lfm2"])
def test_a_state_that_runs_on_is_seen_in_any_precision(
    architecture: str, dtype: torch.dtype
) -> None:
    with pytest.raises(RunError, match="cannot keep packed documents apart"):
        require_isolation(tiny(architecture).to(dtype), VOCAB_SIZE, ROWS)


def test_what_stands_behind_a_document_is_seen() -> None:
    model = tiny("llama")
    plain = model.forward

    def look_ahead(**inputs: Any) -> Any:
        output = plain(**inputs)
        first, second, _third = output.logits.chunk(3, dim=1)
        first += 0.01 * second.mean()
        return output

    model.forward = look_ahead  # type: ignore[method-assign]
    assert find_leak(model, VOCAB_SIZE, ROWS) is not None


@pytest.mark.parametrize("settings", PRECISIONS)
def test_rounding_is_no_leak(tiny_model: Path, settings: dict[str, Any]) -> None:
    model = load_model(tiny_model, TrainingConfig.model_validate({"model": settings}))
    require_isolation(model, 400, ROWS)
    model.set_attn_implementation(BY_DOCUMENT)
    require_isolation(model, 400, FlatCollator())


def test_a_model_that_fails_on_packed_rows_is_no_crash() -> None:
    model = tiny("llama")

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ValueError("no position_ids here")

    model.forward = refuse  # type: ignore[method-assign]
    assert find_leak(model, VOCAB_SIZE, ROWS) == "it fails on a row of several (ValueError)"


@pytest.mark.parametrize("packing", [True, False])
def test_a_run_measures_held_out_documents_as_if_each_were_alone(
    tiny_model: Path, tmp_path: Path, *, packing: bool
) -> None:
    """With a learning rate of next to nothing, the two ways measure the same model."""
    measured = []
    for attention in ("sdpa", "eager"):
        settings = {
            "data": {"packing": packing, "max_length": 128, "eval_split": 0.2},
            "model": {"dtype": "float32", "attn_implementation": attention},
            "optimization": {"max_steps": 1, "learning_rate": 1e-12},
            "reporting": {"report_to": []},
        }
        directory = prepare(tmp_path / attention, tiny_model, settings)
        finished = train(directory)
        assert finished.outcome == "succeeded"
        measured.append(finished.metrics["valid_loss"])
        told = [e for e, _ in read_events(directory.events_file) if isinstance(e, Message)]
        (chosen,) = [each.data for each in told if "attention" in each.data]
        assert chosen["attention"] == (BY_DOCUMENT if attention == "sdpa" else "eager")
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)
