"""Models with an encoder: what each side is given, an exact loss, and all that a run has to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny_t5 import make_tiny_t5
from tests.training.runs import adapter, curve, events, prepare, train
from training.collation import Batch
from training.config import TrainingConfig
from training.data_config import DataConfig
from training.data_counts import CUT_TO_NOTHING, SEVERAL_TURNS
from training.encoding import Refusal
from training.engine import choose_engine
from training.events import Event, EventWriter, Message, Progress, Sample
from training.facts import misfits
from training.failures import RunError
from training.inspection import UNLIMITED_POSITIONS, inspect_model
from training.layouts import choose_layout
from training.loss import HEADS
from training.model import load_model, load_tokenizer
from training.reporting import Reporter
from training.rows import Conversation, Instruction, PromptCompletion
from training.rows import Message as Turn
from training.seq2seq_encoding import Seq2SeqEncoder
from training.strategies import check_strategy

END = "<|im_end|>"
ROWS = [
    {"instruction": f"What is {n} plus {n % 7}?", "output": f"It is {n + n % 7}."}
    for n in range(40)
]
PAIRS = [{"prompt": row["instruction"], "completion": row["output"]} for row in ROWS]
EVERY_STEP = {"reporting": {"logging_steps": 1, "report_to": []}}
STEPS = {"max_steps": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_t5(tmp_path_factory.mktemp("t5") / "model")


@pytest.fixture
def tokenizer(model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(model)


def encoder(
    tokenizer: PreTrainedTokenizerBase, format: Any = "instruct", **data: Any
) -> Seq2SeqEncoder:
    layout = choose_layout(tokenizer, DataConfig(**data), {format}, has_encoder=True)
    return Seq2SeqEncoder(tokenizer, layout, train_on="assistant", stop_ids=())


def sides(document: Any) -> tuple[list[int], list[int]]:
    return (
        document.input_ids[~document.is_target].tolist(),
        document.input_ids[document.is_target].tolist(),
    )


# What each side is given


@pytest.mark.parametrize("template", ["auto", "alpaca_seq2seq"])
def test_an_instruction_is_asked_as_at_inference(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    data = {"template": template, "default_system": "Sois bref."}
    row = Instruction(1, "Add!", "two", "1 and 1")
    asked, answer = sides(encoder(tokenizer, **data).encode(row))
    expected = "### System:\nSois bref.\n\n### Instruction:\nAdd : 1 and 1\n\n### Response:\n"
    assert tokenizer.decode(asked) == expected
    assert tokenizer.decode(answer) == f"two{END}"

    layout = choose_layout(tokenizer, DataConfig(**data), {"instruct"}, has_encoder=True)
    tokenizer.chat_template = layout.template
    turns = [{"role": "user", "content": "Add : 1 and 1"}]
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == asked


def test_a_prompt_and_a_completion_are_what_the_tokenizer_makes_of_them(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    of_pairs = encoder(tokenizer, "prompt_completion")
    asked, answer = sides(of_pairs.encode(PromptCompletion(1, "one ", " two")))
    assert asked == tokenizer("one ")["input_ids"] == of_pairs.prompt_ids("one ")
    assert answer == tokenizer(text_target=" two")["input_ids"]
    assert asked[-1] == answer[-1] == tokenizer.eos_token_id
    empty = sides(of_pairs.encode(PromptCompletion(1, "", f"two{END}")))
    assert empty == ([tokenizer.eos_token_id], tokenizer("two")["input_ids"])


def test_a_prompt_is_cut_at_its_left_and_still_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    of_pairs = encoder(tokenizer, "prompt_completion")
    long = PromptCompletion(1, "abcdefghij" * 9 + "xyz", "two")
    cut = of_pairs.with_shorter_prompt(long, 12)
    assert not isinstance(cut, Refusal)
    asked, answer = sides(cut)
    assert len(asked) + len(answer) == 12
    assert tokenizer.decode(asked).endswith(f"xyz{END}")
    assert tokenizer.decode(answer) == f"two{END}"


def test_one_turn_with_or_without_a_system_message(tokenizer: PreTrainedTokenizerBase) -> None:
    ask, answer = Turn("user", "one?"), Turn("assistant", "red")
    for before in ((), (Turn("system", "Be brief."),)):
        row = Conversation(1, (*before, ask, answer, Turn("user", "more?")))
        asked, said = sides(encoder(tokenizer, "messages").encode(row))
        assert ("Be brief." in tokenizer.decode(asked)) == bool(before)
        assert tokenizer.decode(said) == f"red{END}"


def test_an_answer_of_weight_0_takes_no_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    row = Conversation(1, (Turn("user", "one?"), Turn("assistant", "red", weight=0)))
    assert not encoder(tokenizer, "messages").encode(row).num_targets


@pytest.mark.parametrize(
    "row",
    [
        Conversation(1, (Turn("user", "a"), Turn("assistant", "b")) * 2),
        Conversation(1, (Turn("assistant", "b"),)),
        Conversation(1, (Turn("user", "a"), Turn("assistant", "b")), ({"function": {}},)),
        Instruction(1, "a", "b", history=(("c", "d"),)),
    ],
)
def test_other_conversations_are_refused(tokenizer: PreTrainedTokenizerBase, row: Any) -> None:
    outcome = encoder(tokenizer, "messages").outcome(row)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == SEVERAL_TURNS


# The loss


def batches(model: Path, folder: Path) -> tuple[Any, list[Batch], Batch]:
    """A loaded model, its rows one by one, and all of them in one batch."""
    config = TrainingConfig.model_validate({"model": {"dtype": "float32"}, "adapter": {"r": 4}})
    loaded = load_model(model, config)
    tokenizer = load_tokenizer(model)
    writer = EventWriter(folder / "events.jsonl")
    engine = choose_engine(loaded, config, tokenizer.pad_token_id, Reporter(writer))
    writer.close()
    of_pairs = encoder(tokenizer, "prompt_completion")
    rows = [PromptCompletion(1, "a" * 5 * n, "b" * 3 * (4 - n)) for n in range(1, 4)]
    documents = [of_pairs.encode(row) for row in rows]
    return loaded, [engine.collate([each]) for each in documents], engine.collate(documents)


@pytest.mark.parametrize("head", ["streamed", "whole"])
def test_the_loss_is_exact_per_token_of_the_answer(model: Path, tmp_path: Path, head: str) -> None:
    loaded, singles, together = batches(model, tmp_path)
    expected = 0.0
    for batch in singles:
        asked, said = batch["input_ids"], batch["targets"][None]
        loss = loaded(input_ids=asked, labels=said).loss
        totals = HEADS[head](loaded, batch)
        assert totals.loss_sum.item() == pytest.approx(loss.item() * said.numel(), rel=1e-5)
        expected += totals.loss_sum.item()
    totals = HEADS[head](loaded, together)
    assert totals.loss_sum.item() == pytest.approx(expected, rel=1e-5)
    assert together["num_tokens"] == sum(batch["num_tokens"] for batch in singles)


def test_both_sides_are_padded_and_masked(model: Path, tmp_path: Path) -> None:
    loaded, _, batch = batches(model, tmp_path)
    pad = loaded.config.pad_token_id
    is_read = batch["attention_mask"].bool()
    assert torch.equal(is_read, batch["input_ids"] != pad)
    assert (batch["decoder_input_ids"][:, 0] == loaded.config.decoder_start_token_id).all()
    given, num_columns = batch["decoder_input_ids"], batch["decoder_input_ids"].shape[1]
    for place, target in zip(batch["places"].tolist(), batch["targets"].tolist(), strict=True):
        row, column = divmod(place, num_columns)
        if column + 1 < num_columns:
            assert given[row, column + 1] == target  # it is given what it should have said


def test_each_side_goes_where_it_belongs(model: Path, tmp_path: Path) -> None:
    _, singles, _ = batches(model, tmp_path)
    of_pairs = encoder(load_tokenizer(model), "prompt_completion")
    for number, batch in enumerate(singles, start=1):
        row = PromptCompletion(1, "a" * 5 * number, "b" * 3 * (4 - number))
        asked, said = sides(of_pairs.encode(row))
        assert batch["input_ids"].tolist() == [asked]
        assert batch["targets"].tolist() == said


# Runs

METHODS: Mapping[str, dict[str, Any]] = {
    "lora": {},
    "full": {"adapter": {"type": "none"}},
    "int8": {"model": {"dtype": "float32", "quantization": {"bits": 8}}},
    "nf4": {"model": {"dtype": "float32", "quantization": {"bits": 4}}},
}


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(model: Path, tmp_path: Path, method: str) -> None:
    settings = {**METHODS[method], **EVERY_STEP, "optimization": STEPS}
    directory = prepare(tmp_path, model, settings, rows=PAIRS, format="prompt_completion")
    finished = train(directory)
    assert finished.outcome == "succeeded", finished.failure
    losses = curve(directory)
    assert (losses[8] or 9) < (losses[1] or 0) - 0.5


def test_the_adapter_loads_with_plain_peft_and_says_what_it_learned(
    model: Path, tmp_path: Path
) -> None:
    settings = {
        "optimization": {"max_steps": 24, "learning_rate": 0.01},
        "evaluation": {"sample_prompts": ["What is 1 plus 1?"], "sample_max_new_tokens": 12},
        "data": {"eval_split": 0.1},
    }
    rows = [{**row, "output": "It is so."} for row in ROWS]
    directory = prepare(tmp_path, model, settings, rows=rows, format="instruct")
    assert train(directory).outcome == "succeeded"
    assert (curve(directory, "valid_loss")[24] or 9) < 1
    (sample,) = (event for event in events(directory) if isinstance(event, Sample))
    assert sample.completion == "It is so."

    tokenizer = AutoTokenizer.from_pretrained(directory.result)
    base = AutoModelForSeq2SeqLM.from_pretrained(model)
    tuned = PeftModel.from_pretrained(base, directory.result)
    assert tuned.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1 plus 1?"}],
        add_generation_prompt=True, return_tensors="pt",
    )  # fmt: skip
    said = tuned.generate(**asked, max_new_tokens=12, do_sample=False)[0]
    assert tokenizer.decode(said, skip_special_tokens=True) == "It is so."
    card = (directory.result / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card
    assert "CausalLM" not in card


def test_full_training_writes_a_model_that_loads_and_stops(model: Path, tmp_path: Path) -> None:
    settings = {"adapter": {"type": "none"}, "optimization": {"max_steps": 2}}
    directory = prepare(tmp_path, model, settings, rows=PAIRS, format="prompt_completion")
    assert train(directory).outcome == "succeeded"
    loaded = AutoModelForSeq2SeqLM.from_pretrained(directory.result)
    assert loaded.dtype == torch.float32
    eos = AutoTokenizer.from_pretrained(directory.result).eos_token_id
    assert eos in torch.tensor(loaded.generation_config.eos_token_id).flatten().tolist()


def test_a_paused_run_goes_on_exactly(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)
    settings = {
        **EVERY_STEP,
        "adapter": {"lora_dropout": 0.1, "r": 4},
        "optimization": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "learning_rate": 0.01,
        },
    }
    rows = PAIRS[:20]
    whole, parts = (
        prepare(tmp_path / name, model, settings, rows=rows, format="prompt_completion")
        for name in ("whole", "parts")
    )
    assert train(whole).outcome == "succeeded"

    def in_the_second_epoch(event: Event) -> bool:
        return isinstance(event, Progress) and (event.phase, event.step) == ("training", 5)

    stopped = train(parts, stop_when=in_the_second_epoch, reason="pause")
    assert stopped.outcome == "interrupted"
    assert train(parts).outcome == "succeeded"
    assert curve(parts) == curve(whole)
    one, other = adapter(whole.result), adapter(parts.result)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_cut_rows_are_counted(model: Path, tmp_path: Path) -> None:
    settings = {
        "optimization": {"max_steps": 1, "warmup_steps": 0, "learning_rate": 0.1},
        "data": {"max_length": 16, "overlong": "truncate_end"},
    }
    rows = [
        {"prompt": "short", "completion": "b" * 40},
        {"prompt": "long " * 9, "completion": "b"},
        {"prompt": "short", "completion": "b"},
    ]
    directory = prepare(tmp_path, model, settings, rows=rows, format="prompt_completion")
    assert train(directory).outcome == "succeeded"
    data = next(e.data for e in events(directory) if isinstance(e, Message) and "tokens" in e.data)
    assert (data["rows_cut"], data["rows_dropped"]) == (1, {CUT_TO_NOTHING: 1})


# What is refused


@pytest.mark.parametrize(
    ("data", "param", "words"),
    [
        ({"packing": True}, "packing", "would read all rows of a block as one"),
        ({"template": "vigogne_chat_v3"}, "template", "is a layout for models without an encoder"),
        ({"train_on": "everything"}, "train_on", "takes no loss"),
        ({"overlong": "split"}, "overlong", "nothing for the encoder to read"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused_by_name(
    model: Path, tmp_path: Path, data: dict[str, Any], param: str, words: str
) -> None:
    finished = train(prepare(tmp_path, model, {"data": data}, rows=ROWS, format="instruct"))
    assert finished.failure is not None
    assert finished.failure.param == f"training.data.{param}"
    assert words in finished.failure.message
    assert finished.failure.remedy


def test_a_plain_text_is_refused(model: Path, tmp_path: Path) -> None:
    finished = train(prepare(tmp_path, model, rows=[{"text": "a"}], format="text"))
    assert finished.failure is not None
    assert finished.failure.param == "training.data.format"


def test_the_layout_of_an_encoder_is_refused_for_other_models(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = {"data": {"template": "alpaca_seq2seq"}}
    finished = train(prepare(tmp_path, tiny_model, settings, rows=ROWS, format="instruct"))
    assert finished.failure is not None
    assert finished.failure.param == "training.data.template"
    assert "models with an encoder" in finished.failure.message


def test_rows_of_several_turns_alone_are_no_data(model: Path, tmp_path: Path) -> None:
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant") * 2]
    finished = train(prepare(tmp_path, model, rows=[{"messages": turns}]))
    assert finished.failure is not None
    assert finished.failure.code == "no_target_tokens"
    assert SEVERAL_TURNS in finished.failure.message
    assert "one question and one answer" in (finished.failure.remedy or "")


def test_the_facts_of_a_model_say_that_it_has_an_encoder(model: Path, tiny_model: Path) -> None:
    facts = inspect_model(model)
    assert facts.is_encoder_decoder
    assert facts.context_length == UNLIMITED_POSITIONS
    assert {"q", "k", "v", "o", "wi_0", "wo"} <= set(facts.linear_modules)
    assert not inspect_model(tiny_model).is_encoder_decoder


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_a_weight_of_both_sides_is_not_trained_whole_beside_an_adapter(
    model: Path, tiny_model: Path, name: str
) -> None:
    config = TrainingConfig.model_validate({"adapter": {"modules_to_save": [name]}})
    assert inspect_model(model).tie_word_embeddings
    found = [str(misfit) for misfit in misfits(config, inspect_model(model))]
    assert any("both the encoder and the decoder" in each for each in found)
    assert list(misfits(config, inspect_model(tiny_model))) == []


def test_fsdp_and_an_encoder_are_refused_at_submission_and_by_training(
    model: Path, tiny_model: Path
) -> None:
    """The embedding that both sides share would belong to two groups of weights."""
    config = TrainingConfig.model_validate(
        {"parallelism": {"strategy": "fsdp", "num_processes": 2}}
    )
    (misfit,) = misfits(config, inspect_model(model))
    assert misfit.param == "training.parallelism.strategy"
    assert "shares its embedding with the decoder" in misfit.message
    assert list(misfits(config, inspect_model(tiny_model))) == []
    with pytest.raises(RunError, match="shares its embedding with the decoder") as refused:
        check_strategy(config, has_encoder=True)
    assert refused.value.failure.remedy == (
        'Set parallelism.strategy to "zero3", "zero2" or "ddp".'
    )
    if not torch.cuda.is_available():
        with pytest.raises(RunError, match="fsdp needs GPUs"):
            check_strategy(config, has_encoder=False)
