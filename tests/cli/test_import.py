"""Commands of vigogne and YAML of Axolotl and LLaMA-Factory become job files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.requests import JobRequest
from tests.cli.conftest import Deployment, Tunesmith
from tests.cli.imports import AXOLOTL, LLAMA_FACTORY, at, imported, noted
from tests.jobs.world import FACTS
from tests.vigogne import CANONICAL, SEVEN
from training.config import TrainingConfig

SOURCES = Path(__file__).parent / "sources"
CHAT_V3 = {"data.format": "messages", "data.template": "vigogne_chat_v3"}
FULL = {"adapter.type": "none"}
UNSETTLED = frozenset({"--optim"})
"""Carried over as soon as there is something that it can become."""
EXPECTED: Mapping[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "llama2_chat_full.sh": (
        {
            "model": "meta-llama/Llama-2-7b-hf",
            "training_file": "data/chat.jsonl",
            "suffix": "chat full",
            "integrations": [
                {"type": "wandb", "wandb": {"project": "chat-7b", "name": "chat full"}}
            ],
        },
        {
            **CHAT_V3,
            **FULL,
            "data.eval_split": 0.01,
            "model.dtype": "bfloat16",
            "optimization.learning_rate": 2.5e-5,
            "optimization.warmup_steps": 0.03,
            "parallelism.num_processes": 4,
            "parallelism.strategy": "zero3",
            "parallelism.offload": None,
            "checkpoints.keep": 3,
            "reporting.report_to": ["tensorboard"],
        },
        {
            *("--output_dir", "--overwrite_output_dir", "--adapter"),
            *("--preprocessing_num_workers", "--dataloader_num_workers"),
            *("--master_port", "CUDA_VISIBLE_DEVICES"),
        },
    ),
    "llama2_chat_qlora.sh": (
        {"model": "Llama-2-7b-hf", "training_file": "data/chat.jsonl"},
        {
            **CHAT_V3,
            "model.attn_implementation": "flash_attention_2",
            "model.dtype": "float16",
            "model.quantization": {"bits": 4, "type": "nf4", "double_quant": True},
            "adapter.type": "lora",
            "adapter.r": 64,
        },
        {"--output_dir", "--do_merge_lora", "--max_shard_size"},
    ),
    "mistral_all_linear.sh": (
        {"validation_file": "data/held_out.jsonl", "seed": 7},
        {
            "data.template": "vigogne_alpaca",
            "model.dtype": "float16",
            "adapter.type": None,
            "adapter.target_modules": "all-linear",
            "adapter.lora_alpha": 16,
            "optimization.max_steps": None,
            "optimization.lr_scheduler_type": "linear",
            "optimization.gradient_checkpointing": False,
        },
        {"--output_dir", "--bf16", "--push_to_hub", "--hub_token", "--adapter"},
    ),
    "falcon_tokens.sh": (
        {"model": "tiiuae/falcon-7b"},
        {
            **CHAT_V3,
            "data.add_bos_token": False,
            "model.quantization": {"bits": 8},
            "model.add_tokens": ["<a>", "<b>"],
            "model.add_special_tokens": {"pad_token": "<|pad|>", "bos_token": ">>ABSTRACT<<"},
        },
        {"--output_dir"},
    ),
    "phi_full.sh": (
        {"training_file": "data/chat.parquet"},
        {
            **CHAT_V3,
            **FULL,
            "optimization.weight_decay": 0.01,
            "parallelism.num_processes": 4,
            "parallelism.strategy": "zero2",
            "parallelism.offload": ["optimizer"],
        },
        {"--model_revision", "--trust_remote_code", "--output_dir", "--adapter"},
    ),
    "flan_t5.sh": (
        {"model": "google/flan-t5-xl"},
        {
            "data.format": "instruct",
            "data.template": "alpaca_seq2seq",
            "data.add_bos_token": False,
            "model.dtype": "bfloat16",
            "model.quantization": {"bits": 4},
            "adapter.r": 16,
            "adapter.target_modules": "all-linear",
        },
        {"--model_type", "--output_dir"},
    ),
    "v21_int4.sh": (
        {"model": "huggyllama/llama-7b"},
        {
            "data.template": "vigogne_chat_v2",
            "data.packing": True,
            "model.quantization": {"bits": 4, "double_quant": True},
            "adapter.r": 8,
            "adapter.target_modules": ["q_proj", "v_proj"],
            "optimization.torch_compile": True,
        },
        {"--output_dir", "--save_strategy"},
    ),
    "axolotl_qlora.yml": (
        {
            "training_file": "data/alpaca.jsonl",
            "integrations": [{"type": "wandb", "wandb": {"project": "seven", "name": "first"}}],
        },
        {
            "data.format": "instruct",
            "data.template": "alpaca",
            "data.packing": True,
            "data.eval_split": 0.05,
            "model.dtype": None,
            "model.quantization": {"bits": 4},
            "model.add_special_tokens": {"pad_token": "<|pad|>"},
            "adapter.target_modules": "all-linear",
            "optimization.num_train_epochs": 4,
            "optimization.learning_rate": 2e-4,
            "optimization.warmup_steps": 10,
        },
        {
            *("hub_model_id", "dataset_prepared_path", "output_dir"),
            *("evals_per_epoch", "saves_per_epoch"),
        },
    ),
    "axolotl_full.yaml": (
        {
            "model": "qwen3-0.6b",
            "training_files": [
                {"file": "HuggingFaceH4/ultrachat_200k"}, {"file": "data/more.jsonl"}
            ],
            "validation_file": "data/held_out.jsonl",
            "seed": 11,
        },
        {
            **FULL,
            "data.template": "chatml",
            "data.overlong": "truncate_end",
            "data.train_on": None,
            "optimization.learning_rate": 1e-5,
            "parallelism.strategy": "zero3",
            "parallelism.offload": ["optimizer", "parameters"],
            "evaluation.early_stopping_patience": 3,
        },
        {
            *("datasets[0].path", "datasets[0].field_messages", "datasets[0].split"),
            "adapter",
        },
    ),
    "llama_factory_lora.yaml": (
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "training_files": [{"file": "identity"}, {"file": "alpaca_en_demo"}],
        },
        {
            "adapter.type": "lora",
            "adapter.r": 8,
            "adapter.lora_alpha": 16,
            "adapter.target_modules": "all-linear",
            "data.max_length": 2048,
            "data.overlong": "truncate_end",
            "data.max_train_rows": 2000,
            "data.max_eval_rows": None,
            "optimization.num_train_epochs": 3.0,
            "reporting.report_to": [],
        },
        {
            *("trust_remote_code", "dataset", "template", "overwrite_cache", "output_dir"),
            *("preprocessing_num_workers", "dataloader_num_workers", "plot_loss"),
            *("overwrite_output_dir", "ddp_timeout", "max_samples", "cutoff_len"),
        },
    ),
    "llama_factory_full.yaml": (
        {
            "suffix": None,
            "validation_file": "held_out",
            "integrations": [
                {"type": "wandb", "wandb": {"project": "huggingface", "name": "full/run"}}
            ],
        },
        {
            **FULL,
            "adapter.r": None,
            "data.packing": True,
            "data.train_on": "last_assistant",
            "model.attn_implementation": "flash_attention_2",
            "optimization.gradient_checkpointing": False,
            "optimization.learning_rate": 1e-5,
            "parallelism.strategy": "zero3",
            "parallelism.offload": ["optimizer", "parameters"],
        },
        {"dataset", "eval_dataset", "template", "run_name", "cutoff_len"},
    ),
}  # fmt: skip


def test_every_source_is_looked_at() -> None:
    assert {path.name for path in SOURCES.iterdir()} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_source_becomes_a_job(tunesmith: Tunesmith, tmp_path: Path, name: str) -> None:
    found = tunesmith("import", SOURCES / name, "-o", tmp_path / "job.json")
    assert (found.code, found.out) == (0, "")
    job = json.loads((tmp_path / "job.json").read_text())
    request = JobRequest.model_validate(job)
    beside, training, notes = EXPECTED[name]
    assert {key: at(job, key) for key in beside} == beside
    assert {key: at(job["training"], key) for key in training} == training
    assert noted(found.err) - UNSETTLED == notes
    assert f"tunesmith models add {request.model} SOURCE" in found.err
    assert "hf_abcdefghijklmnop" not in found.err + json.dumps(job)


COMMAND = f"""
torchrun train_sft.py --model_name_or_path tiny --train_file rows.jsonl --mode instruct
--pack_into_block --block_size 2048 --load_in_8bit --lora_r 64 --lora_alpha 16 --lora_dropout 0.05
--target_modules {" ".join(SEVEN)} --per_device_train_batch_size 8
--gradient_accumulation_steps 8 --num_train_epochs 3 --learning_rate 1e-4 --warmup_ratio=0.03
--lr_scheduler_type cosine --weight_decay 0 --torch_compile --fp16 --gradient-checkpointing
--logging_steps 10 --save_steps 100 --save_total_limit 3 --eval_steps 100 --report_to tensorboard
"""


def test_the_command_that_tunesmith_stands_for(
    tunesmith: Tunesmith, served: Deployment, tmp_path: Path
) -> None:
    """From one string to a job that waits, with its data uploaded."""
    served.world.model(
        "llama", FACTS.model_copy(update={"context_length": 4096, "linear_modules": tuple(SEVEN)})
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Add.", "output": "2"}\n')
    (tmp_path / "jobs").mkdir()
    imported = tunesmith("import", " ".join(COMMAND.split()), "-o", "jobs/job.json")
    assert (imported.code, noted(imported.err)) == (0, set())
    file = tmp_path / "jobs" / "job.json"
    job = json.loads(file.read_text())
    assert job["training_file"] == "../rows.jsonl"
    assert TrainingConfig.model_validate(job["training"]) == TrainingConfig.model_validate(
        CANONICAL
    )
    file.write_text(json.dumps({**job, "model": "llama"}))
    submitted = tunesmith("submit", file)
    assert submitted.code == 0, submitted.err
    assert submitted.out.startswith("ftjob-")


def test_a_job_goes_to_the_screen_or_comes_from_standard_input(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("base_model: m\ndatasets: [{path: a.jsonl}]\n"))
    found = tunesmith("import", "-")
    assert json.loads(found.out)["training"]["adapter"] == {"type": "none"}


@pytest.mark.parametrize(
    ("text", "path", "value", "note"),
    [
        (
            "train_sft --model_name_or_path m --train_file a.json --adapter none "
            "--learning_rate fast --gradient_checkpointing maybe",
            "optimization",
            {"learning_rate": 5e-5, "gradient_checkpointing": False},
            "--learning_rate: should be a valid number",
        ),
        (
            "train_sft --model_name_or_path m --train_file a.json --lora_r 0",
            "adapter",
            {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05},
            "--lora_r: should be greater than 0; it is 0",
        ),
        (
            "model_name_or_path: m\ndataset: a.json\nlora_rank: many\nlearning_rate: -1",
            "adapter",
            {"r": 8, "lora_alpha": 16},
            "lora_rank: should be a valid integer",
        ),
        (
            "base_model: m\ndatasets: a.json\nmicro_batch_size: 0",
            "optimization",
            {"per_device_train_batch_size": 1},
            "micro_batch_size: should be greater than 0; it is 0",
        ),
    ],
)
def test_for_an_invalid_value_stands_what_the_program_does_without_it(
    tunesmith: Tunesmith, text: str, path: str, value: dict[str, Any], note: str
) -> None:
    job, err = imported(tunesmith, text)
    assert {key: at(job["training"], f"{path}.{key}") for key in value} == value
    assert note in err


def test_numbers_that_yaml_overlooks(tunesmith: Tunesmith) -> None:
    text = """
base_model: m
datasets: a.json
max_grad_norm: 5e-2
adam_beta2: 1E-1
loraplus_lr_ratio: 1e+1
adapter: lora
learning_rate: "1e-6"
"""
    job, err = imported(tunesmith, text)
    assert job["training"]["optimization"]["max_grad_norm"] == 0.05
    assert job["training"]["optimization"]["adam_beta2"] == 0.1
    assert job["training"]["optimization"]["learning_rate"] == 1e-6
    assert job["training"]["adapter"]["loraplus_lr_ratio"] == 10
    assert noted(err) == set()


def test_numbers_and_switches_in_quotes_are_what_they_say(tunesmith: Tunesmith) -> None:
    text = """
base_model: "7"
datasets: "8.json"
adapter: lora
lora_r: "16"
lora_dropout: '.05'
micro_batch_size: "2"
val_set_size: "0.1"
sample_packing: "true"
gradient_checkpointing: "True"
bf16: "false"
fp16: "true"
seed: "9"
wandb_project: "007"
wandb_name: "1e3"
"""
    job, err = imported(tunesmith, text)
    assert (job["model"], job["training_file"], job["seed"]) == ("7", "8.json", 9)
    assert job["integrations"][0]["wandb"] == {"project": "007", "name": "1e3"}
    training = job["training"]
    assert (training["adapter"]["r"], training["adapter"]["lora_dropout"]) == (16, 0.05)
    assert training["data"]["eval_split"] == 0.1
    assert training["data"]["packing"] is True
    assert training["model"]["dtype"] == "float16"
    assert training["optimization"]["per_device_train_batch_size"] == 2
    assert training["optimization"]["gradient_checkpointing"] is True
    assert noted(err) == set()


@pytest.mark.parametrize(
    ("text", "key", "note"),
    [
        (
            "train_sft --model_name_or_path m --train_file a.json --adapter lora "
            "--max_eval_samples 5",
            "max_eval_rows",
            "--max_eval_samples: no rows are held out",
        ),
        (
            "base_model: m\nadapter: lora\nchat_template: chatml\n"
            "datasets: [{path: a.jsonl, type: completion}]\n",
            "template",
            "chat_template: texts stand as they are, in no layout",
        ),
        (
            f"{LLAMA_FACTORY}optim: adafactor\nadam_beta1: 0.5\n",
            "adam_beta1",
            "adam_beta1: optim 'adafactor' does not go by adam_beta1",
        ),
    ],
)
def test_what_would_have_no_effect_is_left_out(
    tunesmith: Tunesmith, text: str, key: str, note: str
) -> None:
    job, err = imported(tunesmith, text)
    assert f'"{key}"' not in json.dumps(job)
    assert note in err


WANDB = {"type": "wandb", "wandb": {"project": "huggingface"}}
P = {"project": "p"}


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (
            f"{AXOLOTL}lora_r: 8\nlora_alpha: 16\nload_in_8bit: true\nlora_target_linear: true\n",
            {"adapter", "lora_r", "lora_alpha", "load_in_8bit", "lora_target_linear"},
        ),
        (
            f"{LLAMA_FACTORY}finetuning_type: full\nlora_rank: 8\nquantization_bit: 4\n",
            {"lora_rank", "quantization_bit"},
        ),
        (
            "train_sft --model_name_or_path m --train_file a.json --adapter none --lora_r 8",
            {"--lora_r"},
        ),
    ],
)
def test_a_full_fine_tuning_has_no_settings_of_lora(
    tunesmith: Tunesmith, text: str, keys: set[str]
) -> None:
    job, err = imported(tunesmith, text)
    assert job["training"]["adapter"] == {"type": "none"}
    assert at(job["training"], "model.quantization") is None
    assert noted(err) == keys


@pytest.mark.parametrize(
    "text",
    [
        f"{AXOLOTL}adapter: lora\ngroup_by_length: true\n",
        f"{LLAMA_FACTORY}group_by_length: true\n",
        "train_sft --model_name_or_path m --train_file a.json --adapter lora --group_by_length",
    ],
)
def test_rows_of_one_length_go_together(tunesmith: Tunesmith, text: str) -> None:
    job, err = imported(tunesmith, text)
    assert job["training"]["optimization"]["train_sampling_strategy"] == "group_by_length"
    assert noted(err) == set()


@pytest.mark.parametrize(
    ("text", "kept", "keys"),
    [
        (f"{AXOLOTL}adapter: lora\nbnb_4bit_quant_type: nf4\n", None, {"bnb_4bit_quant_type"}),
        (
            f"{LLAMA_FACTORY}double_quantization: false\nquantization_type: fp4\n",
            None,
            {"double_quantization", "quantization_type"},
        ),
        (
            f"{AXOLOTL}adapter: lora\nload_in_8bit: true\nbnb_4bit_quant_type: nf4\n"
            "bnb_4bit_use_double_quant: false\n",
            {"bits": 8, "double_quant": False},
            {"bnb_4bit_quant_type"},
        ),
        (
            "train_sft --model_name_or_path m --train_file a.json --adapter lora "
            "--bnb_4bit_quant_type fp4 --bnb_4bit_use_double_quant",
            None,
            {"--bnb_4bit_quant_type", "--bnb_4bit_use_double_quant"},
        ),
        (
            f"{AXOLOTL}adapter: qlora\nbnb_4bit_quant_type: fp4\n",
            {"bits": 4, "type": "fp4"},
            set(),
        ),
    ],
)
def test_how_to_quantize_says_nothing_where_nothing_is(
    tunesmith: Tunesmith, text: str, kept: dict[str, Any] | None, keys: set[str]
) -> None:
    job, err = imported(tunesmith, text)
    assert at(job["training"], "model.quantization") == kept
    assert noted(err) == keys


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"{AXOLOTL}adapter: qlora\nfsdp: [full_shard]\n", "fsdp"),
        (
            f"{AXOLOTL}adapter: lora\nload_in_8bit: true\ndeepspeed: zero3_cpuoffload.json\n",
            "deepspeed",
        ),
        (f"{LLAMA_FACTORY}quantization_bit: 4\nfsdp: full_shard\n", "fsdp"),
        (
            "torchrun train_sft.py --model_name_or_path m --train_file a.json --adapter qlora "
            "--deepspeed ds_config_zero3.json",
            "--deepspeed",
        ),
    ],
)
def test_quantized_weights_are_not_taken_apart(tunesmith: Tunesmith, text: str, key: str) -> None:
    job, err = imported(tunesmith, text)
    assert job["training"]["parallelism"] == {"strategy": "ddp"}
    assert err.count(f"  {key}: quantized weights stay whole: parallelism.strategy is ddp") == 1


TRAIN_SFT = "train_sft --model_name_or_path m --train_file a.json --adapter lora"


@pytest.mark.parametrize(
    ("options", "strategy", "offload", "reason"),
    [
        ("full_shard auto_wrap", "fsdp", None, ""),
        ("full_shard auto_wrap offload", "fsdp", ["optimizer", "parameters"], ""),
        ("shard_grad_op", "fsdp", None, "weights are shared, too"),
        ("shard_grad_op offload", "fsdp", ["optimizer", "parameters"], "weights are shared, too"),
        ("hybrid_shard", "fsdp", None, "a job runs on one host"),
        ("hybrid_shard_zero2", "fsdp", None, "a job runs on one host"),
        ("no_shard", "ddp", None, ""),
        ("no_shard offload", "ddp", None, 'strategy "ddp" cannot offload'),
        ("half_shard", "fsdp", None, "half_shard is no option here"),
    ],
)
def test_options_of_fsdp_are_carried_or_told(
    tunesmith: Tunesmith, options: str, strategy: str, offload: list[str] | None, reason: str
) -> None:
    listed = f"[{', '.join(options.split())}]"
    for source, key in (
        (f'torchrun {TRAIN_SFT} --fsdp "{options}"', "--fsdp"),
        (f"torchrun {TRAIN_SFT} --fsdp {options}", "--fsdp"),
        (f"{AXOLOTL}adapter: lora\nfsdp: {listed}\n", "fsdp"),
        (f"{LLAMA_FACTORY}fsdp: {options}\n", "fsdp"),
    ):
        job, err = imported(tunesmith, source)
        parallelism = job["training"]["parallelism"]
        assert (parallelism["strategy"], parallelism.get("offload")) == (strategy, offload)
        assert noted(err) == ({key} if reason else set())
        assert f"  {key}: {reason}" in err or not reason


@pytest.mark.parametrize("value", ["", "''", "[]", "false"])
def test_fsdp_that_is_not_asked_for(tunesmith: Tunesmith, value: str) -> None:
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}fsdp: {value}\nfsdp_config: {{}}\n")
    assert "parallelism" not in job["training"]
    assert noted(err) <= {"fsdp_config"}


def test_fsdp_that_is_no_list_of_options(tunesmith: Tunesmith) -> None:
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}fsdp: 5\n")
    assert "parallelism" not in job["training"]
    assert "  fsdp: should be options of FSDP, e.g. full_shard" in err
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}fsdp: true\n")
    assert job["training"]["parallelism"] == {"strategy": "fsdp"}


@pytest.mark.parametrize(
    ("flags", "steps", "keys"),
    [
        ("--warmup_ratio 0.03 --warmup_steps 100", 100, {"--warmup_ratio"}),
        ("--warmup_steps 100 --warmup_ratio 0.03", 100, {"--warmup_ratio"}),
        ("--warmup_steps 0 --warmup_ratio 0.05", 0.05, set()),
        ("--warmup_ratio 0.05 --warmup_steps 0", 0.05, set()),
        ("--warmup_steps 0", 0, set()),
        ("--warmup_ratio 5", 0, {"--warmup_ratio"}),
        ("--warmup_ratio 1.0", 0, {"--warmup_ratio"}),
    ],
)
def test_a_number_of_steps_goes_before_a_ratio(
    tunesmith: Tunesmith, flags: str, steps: float, keys: set[str]
) -> None:
    job, err = imported(tunesmith, f"{TRAIN_SFT} {flags}")
    assert job["training"]["optimization"]["warmup_steps"] == steps
    assert noted(err) == keys
    yaml = "\n".join(
        f"{name}: {value}" for name, value in (flag.split() for flag in flags.split("--")[1:])
    )
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}{yaml}\n")
    assert job["training"]["optimization"]["warmup_steps"] == steps
    assert noted(err) == {key.removeprefix("--") for key in keys}


def test_deepspeed_that_shares_nothing_is_ddp(tunesmith: Tunesmith) -> None:
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}deepspeed: deepspeed/ds_z0_config.json\n")
    assert job["training"]["parallelism"] == {"strategy": "ddp"}
    assert noted(err) == set()


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        (f"{AXOLOTL}float32: true", "training.model.dtype", "float32"),
        (
            f"{AXOLOTL}noisy_embedding_alpha: 5",
            "training.optimization.neftune_noise_alpha",
            5,
        ),
        (f"{AXOLOTL}use_wandb: true", "integrations", [WANDB]),
        (f"{AXOLOTL}use_wandb: false\nuse_mlflow: false", "integrations", None),
        (f"{AXOLOTL}wandb_project: p\nuse_wandb: true", "integrations", [{**WANDB, "wandb": P}]),
        (
            f"{AXOLOTL}use_mlflow: true",
            "integrations",
            [{"type": "mlflow", "mlflow": {"experiment": "Default"}}],
        ),
        (
            f"{LLAMA_FACTORY}disable_shuffling: true",
            "training.optimization.train_sampling_strategy",
            "sequential",
        ),
        (
            f"{LLAMA_FACTORY}early_stopping_steps: 3",
            "training.evaluation.early_stopping_patience",
            3,
        ),
    ],
)
def test_a_key_with_another_name_here(
    tunesmith: Tunesmith, text: str, path: str, value: object
) -> None:
    job, err = imported(tunesmith, f"{text}\n")
    assert at(job, path) == value
    assert noted(err) <= {"adapter"}


def test_flash_attention_that_could_not_compute_is_left_out(tunesmith: Tunesmith) -> None:
    text = f"{AXOLOTL}adapter: lora\nbf16: false\nflash_attention: true\n"
    job, err = imported(tunesmith, text)
    assert "attn_implementation" not in job["training"]["model"]
    assert noted(err) == {"flash_attention"}


def test_a_number_of_rows_that_is_none_is_noted(tunesmith: Tunesmith) -> None:
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}max_samples: few\n")
    assert at(job["training"], "data.max_train_rows") is None
    assert "max_samples: should be a valid integer; it is 'few'" in err


def test_packed_rows_are_of_one_length_already(tunesmith: Tunesmith) -> None:
    text = f"{AXOLOTL}adapter: lora\ngroup_by_length: true\nsample_packing: true\n"
    job, err = imported(tunesmith, text)
    assert at(job["training"], "optimization.train_sampling_strategy") is None
    assert "group_by_length: packed blocks are always shuffled" in err


MLFLOW = """
base_model: a
datasets: [{path: b.jsonl, type: alpaca}]
mlflow_experiment_name: runs
mlflow_run_name: %s
mlflow_tracking_uri: http://elsewhere
wandb_project: p
"""


def test_mlflow_is_an_integration_at_the_workers_server(tunesmith: Tunesmith) -> None:
    job, notes = imported(tunesmith, MLFLOW % "first")
    assert job["integrations"] == [
        {"type": "wandb", "wandb": {"project": "p"}},
        {"type": "mlflow", "mlflow": {"experiment": "runs", "name": "first"}},
    ]
    assert "mlflow_tracking_uri: a worker has its own server" in notes


def test_what_the_server_would_refuse_of_an_integration_is_left_out(tunesmith: Tunesmith) -> None:
    job, notes = imported(tunesmith, MLFLOW % ("x" * 129))
    assert job["integrations"][1]["mlflow"] == {"experiment": "runs"}
    assert "mlflow_run_name: should be a line of 1 to 128 characters" in notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora_r: 8", "neither --model_name_or_path (vigogne), nor base_model (Axolotl)"),
        ("- a\n- b", "an object of keys"),
        ("a: b: c", "not YAML"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("echo --model_name_or_path", "--model_name_or_path: no model is named"),
        (
            "train_sft --model_name_or_path $1 --train_file a.json",
            "--model_name_or_path: no model is named that is known without a shell",
        ),
        ("base_model:\ndatasets: a.json", "base_model: no model is named in it"),
        ("model_name_or_path: ''\ndataset: a.json", "model_name_or_path: no model is named in it"),
        (
            'train_sft --model_name_or_path m --train_file "$1"',
            "--train_file: no file to train on is named that is known without a shell",
        ),
        ("# --model_name_or_path m", "no command with --model_name_or_path"),
        ("--model_name_or_path 'm", "no command that a shell would read"),
        ("base_model: m\nrl: dpo", "supervised, not by dpo"),
        ("model_name_or_path: m\nstage: dpo", "not by dpo"),
        ("base_model: m\n", "datasets: no file to train on is named in it"),
        ("base_model: m\ndatasets: 5\n", "datasets: no file to train on is named in it"),
        ("base_model: m\ndatasets: a.json\nreward_model: true", "reward_model: Tunesmith trains"),
        (
            "base_model: m\ndatasets: a.json\nprocess_reward_model: true",
            "process_reward_model: Tunesmith trains",
        ),
        ("base_model: m\ndatasets: a.json\ndiffusion: {eps: 1}", "diffusion: Tunesmith trains"),
        (
            "base_model: m\npretraining_dataset: [{path: a/b}]",
            "pretraining_dataset: nothing is streamed; name a file of texts in `datasets`",
        ),
        ("model_name_or_path: m\ninfer_backend: vllm", "dataset: no data set to train on is named"),
    ],
)
def test_what_cannot_become_a_job_says_why(tunesmith: Tunesmith, text: str, words: str) -> None:
    job, err = imported(tunesmith, text)
    assert job is None
    assert words in err
    assert err.startswith("tunesmith: ")


def test_a_file_that_is_not_there(tunesmith: Tunesmith) -> None:
    assert "cannot read none.sh: No such file" in tunesmith("import", "none.sh").err
