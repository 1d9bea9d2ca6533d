"""Commands of vigogne's `train_sft`, as a shell would read them."""

import shlex
from typing import Any

import pytest

from tests.cli.conftest import Tunesmith
from tests.cli.imports import imported, noted

SCRIPT = """
export WANDB_PROJECT='a b' NOISE=1
# --lora_r 1 \\
text="two
lines"
WANDB_ENTITY=me python -m vigogne.train_sft \\
  --model_name_or_path ${BASE:-llama} \\
  --train_file "$text.jsonl" --lora-r 4 --report_to wandb \\
  --adapter lora   # \\
  --lora_alpha 99
echo --model_name_or_path other
"""


def test_a_script_is_read_as_a_shell_would(tunesmith: Tunesmith) -> None:
    job, _ = imported(tunesmith, SCRIPT)
    assert job["model"] == "llama"
    assert job["training_file"] == "two\nlines.jsonl"
    assert (job["training"]["adapter"]["r"], job["training"]["adapter"]["lora_alpha"]) == (4, 16)
    assert job["integrations"][0]["wandb"] == {"project": "a b", "entity": "me"}


@pytest.mark.parametrize(
    "behind",
    [
        "> train.log",
        ">train.log 2>&1",
        "2>&1 | tee x",
        "&> 'a log' &",
        "< /dev/null >> $LOG",
        "> >(tee log)",
        "&",
        "; echo done",
        "&& echo --lora_r 9",
        "|| exit 1",
        "|& tee x  # don't; stop",
    ],
)
def test_what_a_shell_does_with_a_command_is_no_value_of_it(
    tunesmith: Tunesmith, behind: str
) -> None:
    job, err = imported(
        tunesmith, f"train_sft --model_name_or_path m --train_file a.jsonl --lora_r 4 {behind}"
    )
    assert job["training"]["adapter"]["r"] == 4
    assert noted(err) == {"--adapter"}


def test_a_line_of_several_commands_is_read_one_by_one(tunesmith: Tunesmith) -> None:
    text = (
        "cd x && MODEL=m; FILE=a.jsonl > log python train_sft.py --model_name_or_path $MODEL "
        "2> log --train_file $FILE --adapter none; MODEL=other"
    )
    job, err = imported(tunesmith, text)
    assert (job["model"], job["training_file"]) == ("m", "a.jsonl")
    assert noted(err) == set()


@pytest.mark.parametrize(
    "value", ["a=b", "~/a/b.jsonl", "a:b,c", "{a}*", "'a;b'", '"|"', r"\&", "'>'", '"it\'s > &"']
)
def test_a_value_is_one_word(tunesmith: Tunesmith, value: str) -> None:
    text = f"train_sft --model_name_or_path m --train_file {value} --adapter none"
    job, err = imported(tunesmith, text)
    assert job["training_file"] == shlex.split(value)[0]
    assert noted(err) == set()


TOLD = "train_sft --model_name_or_path m --train_file a.jsonl"
CHAT = {"format": "messages", "template": "vigogne_chat_v3"}
INSTRUCT = {"format": "instruct", "template": "vigogne_alpaca"}


@pytest.mark.parametrize(
    ("flags", "data"),
    [
        ("--adapter lora", CHAT),
        ("--adapter none", CHAT),
        ("", CHAT),
        ("--processor_style alpaca", INSTRUCT),
        ("--compute_dtype bfloat16", INSTRUCT),
        ("--lora_r 4", None),
    ],
)
def test_rows_of_vigogne_are_of_a_kind_by_its_version(
    tunesmith: Tunesmith, flags: str, data: dict[str, Any] | None
) -> None:
    job, _ = imported(tunesmith, f"{TOLD} {flags}")
    assert job["training"].get("data") == data


@pytest.mark.parametrize(
    ("flags", "quantization"),
    [
        ("--mode chat --load_in_4bit", {"bits": 4, "double_quant": False}),
        ("--mode chat --load_in_4bit --use_nested_quant", {"bits": 4, "double_quant": True}),
        ("--mode chat --load_in_8bit", {"bits": 8}),
        ("--adapter qlora --load_in_4bit", {"bits": 4}),
    ],
)
def test_vigogne_2_1_quantizes_once(
    tunesmith: Tunesmith, flags: str, quantization: dict[str, Any]
) -> None:
    job, _ = imported(tunesmith, f"{TOLD} {flags}")
    assert job["training"]["model"]["quantization"] == quantization


@pytest.mark.parametrize(
    ("flags", "length", "block", "is_noted"),
    [
        ("--pack_into_block --block_size 512", None, 512, False),
        ("--pack_into_block", None, 1024, False),
        ("--pack_into_block --model_max_length 4096", 4096, None, False),
        ("--pack_into_block --block_size 512 --model_max_length 256", 256, 512, False),
        ("--block_size 512", None, None, True),
        ("--block_size 512 --pack_into_block no", None, None, True),
        ("--block_size 512 --model_max_length 256", 256, None, True),
    ],
)
def test_vigogne_has_blocks_where_it_packs(
    tunesmith: Tunesmith, flags: str, length: int | None, block: int | None, *, is_noted: bool
) -> None:
    job, err = imported(tunesmith, f"{TOLD} --adapter lora {flags}")
    data = job["training"]["data"]
    assert (data.get("max_length"), data.get("block_size")) == (length, block)
    assert ("--block_size" in noted(err)) is is_noted


LORA_2_1 = {"target_modules": ["q_proj", "v_proj"], "r": 8, "lora_alpha": 16, "lora_dropout": 0.05}


@pytest.mark.parametrize(
    ("flags", "quantization"),
    [
        ("--load_in_8bit", {"bits": 8}),
        ("--load_in_4bit", {"bits": 4, "double_quant": False}),
    ],
)
def test_quantized_weights_have_lora_trained_without_a_word_of_it(
    tunesmith: Tunesmith, flags: str, quantization: dict[str, Any]
) -> None:
    """As version 2.1 does; 2.2 finds nothing to train, or overlooks what is asked for."""
    job, err = imported(tunesmith, f"{TOLD} {flags}")
    assert job["training"]["adapter"] == LORA_2_1
    assert job["training"]["model"]["quantization"] == quantization
    assert job["training"]["data"] == INSTRUCT
    assert "  --adapter: is missing, but weights are quantized: LoRA is trained" in err
    assert noted(err) == {"--adapter"}


def test_a_switch_that_does_not_quantize_has_every_weight_trained(tunesmith: Tunesmith) -> None:
    job, _ = imported(tunesmith, f"{TOLD} --load_in_8bit false")
    assert job["training"]["adapter"] == {"type": "none"}


@pytest.mark.parametrize(
    ("flags", "targets", "keys"),
    [
        (
            "--lora_target_modules q_proj v_proj --lora_target_all_linear_layers",
            "all-linear",
            {"--lora_target_modules"},
        ),
        (
            "--lora_target_all_linear_layers --lora_target_modules q_proj",
            "all-linear",
            {"--lora_target_modules"},
        ),
        (
            "--lora_target_modules q_proj --lora_target_all_linear_layers false",
            ["q_proj"],
            set(),
        ),
    ],
)
def test_every_linear_layer_includes_those_that_are_named(
    tunesmith: Tunesmith, flags: str, targets: object, keys: set[str]
) -> None:
    job, err = imported(tunesmith, f"{TOLD} --adapter lora {flags}")
    assert job["training"]["adapter"]["target_modules"] == targets
    assert noted(err) == keys


def test_a_switch_may_say_yes_or_no(tunesmith: Tunesmith) -> None:
    flags = "--load_best_model_at_end yes --pack_into_block no --torch_compile No --bf16 Yes"
    job, err = imported(tunesmith, f"{TOLD} --adapter none {flags}")
    assert job["training"]["checkpoints"]["load_best_model_at_end"] is True
    assert job["training"]["data"]["packing"] is False
    assert job["training"]["model"]["dtype"] == "bfloat16"
    assert noted(err) == set()


@pytest.mark.parametrize(
    "launcher", ["torchrun --nproc_per_node=2", "accelerate launch --num_processes 2"]
)
def test_a_module_behind_a_launcher(tunesmith: Tunesmith, launcher: str) -> None:
    told = "--model_name_or_path m --train_file a.jsonl --adapter none"
    text = f"{launcher} -m vigogne.cli.train_sft {told}"
    job, err = imported(tunesmith, text)
    assert job["training"]["parallelism"]["num_processes"] == 2
    assert noted(err) == set()


def test_what_only_a_shell_knows_ends_no_command(tunesmith: Tunesmith) -> None:
    text = (
        "torchrun --nproc_per_node $(nvidia-smi -L | wc -l) train_sft.py --model_name_or_path m "
        "--train_file a.jsonl --adapter none --seed ${SEED:-3;4} --lora_r `a; b` --save_steps 7"
    )
    job, err = imported(tunesmith, text)
    assert job["training"]["checkpoints"]["save_steps"] == 7
    assert noted(err) == {"--nproc_per_node", "--seed", "--lora_r"}
