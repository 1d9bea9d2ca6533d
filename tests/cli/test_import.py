"""Commands of vigogne and YAML of Axolotl and LLaMA-Factory become job files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.requests import JobRequest
from tests.cli.conftest import Deployment, Tunesmith
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
            *("--tokenizer_use_fast", "--output_dir", "--overwrite_output_dir", "--adapter"),
            *("--preprocessing_num_workers", "--dataloader_num_workers", "--log_level"),
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
        {"datasets[0].path", "datasets[0].field_messages", "plugins", "adapter"},
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
            "data.max_train_rows": 1000,
            "optimization.num_train_epochs": 3.0,
            "reporting.report_to": [],
        },
        {
            *("trust_remote_code", "dataset", "template", "overwrite_cache", "output_dir"),
            *("preprocessing_num_workers", "dataloader_num_workers", "plot_loss"),
            *("overwrite_output_dir", "ddp_timeout"),
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
        {"dataset", "eval_dataset", "template", "run_name"},
    ),
}  # fmt: skip


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key, {})
    return None if value == {} else value


def noted(printed: str) -> set[str]:
    """The keys of the lines on standard error that begin with two blanks."""
    lines = [line[2:] for line in printed.splitlines() if line.startswith("  ")]
    return {line.partition(": ")[0] for line in lines if not line.startswith("tunesmith")}


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


def imported(tunesmith: Tunesmith, text: str) -> tuple[Any, str]:
    Path("source").write_text(text)
    found = tunesmith("import", "source")
    return json.loads(found.out) if found.code == 0 else None, found.err


def test_a_data_set_of_llama_factory_is_found_by_its_name(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    (tmp_path / "lf").mkdir()
    info = {"mine": {"file_name": "mine.json"}, "hub": {"hf_hub_url": "x/y"}}
    (tmp_path / "lf" / "dataset_info.json").write_text(json.dumps(info))
    text = "model_name_or_path: m\ndataset_dir: lf\ndataset: mine, hub\n"
    job, err = imported(tunesmith, text)
    assert job["training_files"] == [{"file": "lf/mine.json"}, {"file": "hub"}]
    assert noted(err) == {"dataset"}


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
    assert "mlflow_run_name: String should have at most 128 characters" in notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora_r: 8", "neither --model_name_or_path (vigogne), nor base_model (Axolotl)"),
        ("- a\n- b", "an object of keys"),
        ("a: b: c", "not YAML"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("echo --model_name_or_path", "cannot become a job"),
        ("# --model_name_or_path m", "no command with --model_name_or_path"),
        ("--model_name_or_path 'm", "no command that a shell would read"),
        ("base_model: m\nrl: dpo", "supervised, not by dpo"),
        ("model_name_or_path: m\nstage: dpo", "not by dpo"),
        ("base_model: m\nload_in_8bit: true\ndatasets: [{path: a.json}]", "cannot be trained"),
        ("base_model: m\n", "give either training_file or training_files"),
    ],
)
def test_what_cannot_become_a_job_says_why(tunesmith: Tunesmith, text: str, words: str) -> None:
    job, err = imported(tunesmith, text)
    assert job is None
    assert words in err
    assert err.startswith("tunesmith: ")


def test_a_file_that_is_not_there(tunesmith: Tunesmith) -> None:
    assert "cannot read none.sh: No such file" in tunesmith("import", "none.sh").err
