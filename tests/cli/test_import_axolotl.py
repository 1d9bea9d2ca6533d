"""YAML for Axolotl."""

import pytest

from tests.cli.conftest import Tunesmith
from tests.cli.imports import AXOLOTL, at, imported, noted


def test_every_file_of_a_data_set_of_axolotl_is_carried(tunesmith: Tunesmith) -> None:
    text = """
base_model: m
datasets:
  - {path: d, data_files: [a.jsonl, b.jsonl, c.jsonl], split: train}
  - {path: e, data_files: d.jsonl, split: "train[:10%]"}
test_datasets: [{path: d, data_files: [e.jsonl, f.jsonl], split: null}]
"""
    job, err = imported(tunesmith, text)
    assert job["training_files"] == [{"file": f"{name}.jsonl"} for name in "abcd"]
    assert job["validation_file"] == "e.jsonl"
    assert noted(err) == {"adapter", "datasets[1].split", "test_datasets[1]"}


@pytest.mark.parametrize("value", ["unsloth", "offload"])
def test_offloaded_activations_of_axolotl_are_recomputed(tunesmith: Tunesmith, value: str) -> None:
    text = f"base_model: m\ndatasets: a.json\ngradient_checkpointing: {value}\n"
    job, err = imported(tunesmith, text)
    assert job["training"]["optimization"]["gradient_checkpointing"] is True
    assert "gradient_checkpointing: layers are recomputed, not offloaded" in err


@pytest.mark.parametrize(
    "datasets", ["[a.jsonl]", "a.jsonl", "{path: a.jsonl}", "[a.jsonl, 5, {type: alpaca}]"]
)
def test_data_sets_of_axolotl_may_be_named_only(tunesmith: Tunesmith, datasets: str) -> None:
    job, err = imported(tunesmith, f"base_model: m\ndatasets: {datasets}\n")
    assert job["training_file"] == "a.jsonl"
    assert noted(err) - {"datasets[1]", "datasets[2]"} == {"adapter"}
    assert err.count("should be a path") == datasets.count("5") * 2


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ("", None),
        ("bf16: auto", None),
        ("bf16: true\nfp16: false", "bfloat16"),
        ("bf16: false\nfp16: false", "float32"),
        ("bf16: false", "float32"),
        ("bf16:\nfp16:", "float32"),
        ("bf16: false\nfp16: true", "float16"),
        ("bf16: false\nbfloat16: true", "bfloat16"),
        ("bf16: false\nload_in_8bit: true", "float16"),
        ("bf16: false\nload_in_4bit: true", "float32"),
    ],
)
def test_a_type_that_axolotl_is_told_not_to_use(
    tunesmith: Tunesmith, said: str, dtype: str | None
) -> None:
    job, err = imported(tunesmith, f"{AXOLOTL}adapter: lora\n{said}\n")
    assert at(job["training"], "model.dtype") == dtype
    assert noted(err) == set()


SECOND_FSDP = """
adapter: lora
fsdp_version: 2
fsdp_config: {reshard_after_forward: true, offload_params: %s}
"""


@pytest.mark.parametrize(
    ("offloads", "offload"), [("true", ["optimizer", "parameters"]), ("false", None)]
)
def test_fsdp_is_asked_for_by_its_settings_alone(
    tunesmith: Tunesmith, offloads: str, offload: list[str] | None
) -> None:
    job, err = imported(tunesmith, AXOLOTL + SECOND_FSDP % offloads)
    parallelism = job["training"]["parallelism"]
    assert (parallelism["strategy"], parallelism.get("offload")) == ("fsdp", offload)
    assert noted(err) == {"fsdp_version", "fsdp_config"}


ADAPTERS = """
adapter: lora
lora_target_parameters: %s
lora_rank_pattern: {mlp.experts: 4}
lora_alpha_pattern: {mlp.experts: 8}
peft_layers_to_transform: [0, 1]
"""


@pytest.mark.parametrize("named", ["mlp.experts.down_proj", "[mlp.experts.down_proj]"])
def test_an_adapter_of_weights_that_are_no_layers(tunesmith: Tunesmith, named: str) -> None:
    job, err = imported(tunesmith, AXOLOTL + ADAPTERS % named)
    assert job["training"]["adapter"] == {
        "type": "lora",
        "target_modules": [],
        "target_parameters": ["mlp.experts.down_proj"],
        "rank_pattern": {"mlp.experts": 4},
        "alpha_pattern": {"mlp.experts": 8},
        "layers_to_transform": [0, 1],
    }
    assert noted(err) == set()


def test_a_full_fine_tuning_has_no_weights_of_an_adapter(tunesmith: Tunesmith) -> None:
    job, err = imported(tunesmith, f"{AXOLOTL}lora_target_parameters: [a.b]\n")
    assert job["training"]["adapter"] == {"type": "none"}
    assert noted(err) == {"adapter", "lora_target_parameters"}


@pytest.mark.parametrize(
    ("said", "targets", "reason"),
    [
        ("lora_target_modules: [q_proj]", ["q_proj"], ""),
        ("lora_target_modules: all-linear", "all-linear", ""),
        ("lora_target_modules: '.*(q|v)_proj'", None, "an expression is not read"),
        (
            "lora_target_modules: [q_proj]\nlora_target_linear: true",
            "all-linear",
            "lora_target_linear says otherwise",
        ),
        ("lora_target_linear: false\nlora_target_modules: [q_proj]", ["q_proj"], ""),
    ],
)
def test_which_layers_axolotl_adapts(
    tunesmith: Tunesmith, said: str, targets: str | list[str] | None, reason: str
) -> None:
    job, err = imported(tunesmith, f"{AXOLOTL}adapter: lora\n{said}\n")
    assert at(job["training"], "adapter.target_modules") == targets
    assert (f"  lora_target_modules: {reason}" in err) is bool(reason)


def test_ligers_kernels_by_their_names_in_axolotl(tunesmith: Tunesmith) -> None:
    text = f"{AXOLOTL}adapter: lora\nliger_rms_norm: true\nliger_rope: true\n"
    job, err = imported(tunesmith, text)
    assert job["training"]["model"]["use_liger_kernel"] is True
    assert noted(err) == set()


@pytest.mark.parametrize(
    ("said", "sizes"),
    [
        ("", (1, 1)),
        ("micro_batch_size: 3", (3, 3)),
        ("micro_batch_size: 3\neval_batch_size: 2", (3, 2)),
        ("micro_batch_size: 0", (1, 1)),
    ],
)
def test_axolotl_evaluates_by_as_many_rows_as_it_trains(
    tunesmith: Tunesmith, said: str, sizes: tuple[int, int]
) -> None:
    job, _ = imported(tunesmith, f"{AXOLOTL}adapter: lora\n{said}\n")
    optimization = job["training"]["optimization"]
    found = [optimization[f"per_device_{what}_batch_size"] for what in ("train", "eval")]
    assert tuple(found) == sizes


@pytest.mark.parametrize(
    ("said", "length"), [("", 512), ("sequence_len: 4096", 4096), ("sequence_len: 0", 512)]
)
def test_rows_of_axolotl_are_short(tunesmith: Tunesmith, said: str, length: int) -> None:
    job, _ = imported(tunesmith, f"{AXOLOTL}adapter: lora\n{said}\n")
    assert job["training"]["data"]["max_length"] == length


def test_files_by_splits(tunesmith: Tunesmith) -> None:
    text = """
base_model: m
adapter: lora
datasets:
  - {path: json, data_files: {train: [a.jsonl, b.jsonl], test: c.jsonl}}
  - {path: json, data_files: {train: d.jsonl, extra: e.jsonl}, split: extra}
  - {path: json, data_files: {train: f.jsonl}, split: "train[:5%]"}
  - {path: json, data_files: {train: h.jsonl}, split: gone}
test_datasets: [{path: json, data_files: {test: g.jsonl}, split: test}]
"""
    job, err = imported(tunesmith, text)
    assert job["training_files"] == [{"file": f"{name}.jsonl"} for name in "abef"]
    assert job["validation_file"] == "g.jsonl"
    files = "datasets[0].data_files.test", "datasets[1].data_files.train"
    assert noted(err) == {
        *files,
        "datasets[2].split",
        "datasets[3].data_files.train",
        "datasets[3]",
    }


def test_data_sets_of_several_types_have_no_format_in_common(tunesmith: Tunesmith) -> None:
    text = """
base_model: m
adapter: lora
datasets:
  - {path: a.jsonl, type: alpaca}
  - {path: b.jsonl, type: chat_template}
  - {path: c.jsonl, type: pygmalion}
"""
    job, err = imported(tunesmith, text)
    assert at(job["training"], "data.format") is None
    assert at(job["training"], "data.template") is None
    assert noted(err) == {f"datasets[{index}].type" for index in range(3)}
    assert "datasets[0].type: types differ, so the format of each file is detected" in err
    assert "datasets[2].type: rows of the type 'pygmalion' are not read" in err


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("roles_to_train: [assistant]", ""),
        ("roles_to_train: []", ""),
        ("roles_to_train: [assistant, tool]", "data.train_on says which turns have loss"),
        ("roles_to_train: [{}]", "data.train_on says which turns have loss"),
        ("roles_to_train: user", "data.train_on says which turns have loss"),
        ("train_on_eos: turn", ""),
        ("train_on_eos: last", "the token that ends a turn has loss where the turn has"),
        ("train_on_eot: none", "the token that ends a turn has loss where the turn has"),
        ("message_field_training: train", "data.train_on says which turns have loss"),
        ("drop_system_message: true", "a row's system message stays"),
        ("drop_system_message: false", ""),
        ("chat_template: tokenizer_default", ""),
        ("chat_template: llama3", "all files have one layout: data.template"),
        ("shards: 4", "all rows of a file are taken"),
        ("trust_remote_code: true", "no code of a data set is run"),
        ("trust_remote_code: false", ""),
        ("name: en", "a file has no subsets"),
        ("field_messages: turns", "what a file's rows are is detected from them"),
        ("field_messages:", ""),
    ],
)
def test_what_axolotl_says_of_a_data_set(tunesmith: Tunesmith, said: str, reason: str) -> None:
    entry = f"datasets:\n  - path: a.jsonl\n    type: chat_template\n    {said}\n"
    _, err = imported(tunesmith, f"base_model: m\nadapter: lora\n{entry}")
    key = f"datasets[0].{said.partition(':')[0]}"
    assert noted(err) == ({key} if reason else set())
    assert f"  {key}: {reason}" in err or not reason


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("", "rows of tokens are not read"),
        ("alpaca:chat", "there is no layout like that of 'alpaca:chat'"),
        ("alpaca:phi", "there is no layout like that of 'alpaca:phi'"),
        ("{field_instruction: q}", "rows of the type {'field_instruction': 'q'} are not read"),
    ],
)
def test_a_type_of_rows_that_there_is_nothing_for(
    tunesmith: Tunesmith, kind: str, reason: str
) -> None:
    text = f"base_model: m\nadapter: lora\ndatasets: [{{path: a.jsonl, type: {kind}}}]\n"
    job, err = imported(tunesmith, text)
    assert at(job["training"], "data.format") is None
    assert at(job["training"], "data.template") is None
    assert f"  datasets[0].type: {reason}" in err


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("processor_type: AutoProcessor", "rows are texts"),
        ("skip_prepare_dataset: true", "rows are always prepared"),
        ("lora_mlp_kernel: true", "LoRA's layers are fused"),
        ("peft: {loftq_config: {loftq_bits: 4}}", 'set adapter.init_lora_weights to "loftq"'),
        ("eot_tokens: [x]", "the chat template says what ends a turn"),
        ("tokenizer_use_mistral_common: true", "a model is trained with the tokenizer of"),
        ("xformers_attention: true", "model.attn_implementation is sdpa, eager or"),
        ("liger_fused_linear_cross_entropy: true", "the loss is our own, and exact"),
        ("cut_cross_entropy: true", "the loss is our own, and exact"),
        ("plugins: [a.LigerPlugin, a.KernelsPlugin]", "no plugin is run"),
        ("plugins: [axolotl.integrations.liger.LigerPlugin]", ""),
        ("plugins:", ""),
        ("gptq: true", "weights are quantized by bitsandbytes"),
        ("gptq: false", ""),
        ("bnb_config_kwargs: {a: 1}", "set model.quantization.type"),
        ("unfrozen_parameters: [a]", "every weight is trained, or an adapter"),
        ("max_packed_sequence_len: 2048", "set data.packing"),
        ("sample_packing_sequentially: true", "packed blocks are always shuffled"),
        ("curriculum_sampling: true", 'set optimization.train_sampling_strategy to "sequential"'),
        ("batch_size: 8", "set optimization.gradient_accumulation_steps to it"),
        ("cosine_min_lr_ratio: 0.1", 'set optimization.lr_scheduler_type to "cosine_with_min_lr"'),
        ("activation_offloading: true", "layers are recomputed, not offloaded"),
        ("evals_per_epoch: 4", "give a number of steps: evaluation.eval_steps"),
        ("saves_per_epoch: 1", "give a number of steps: checkpoints.save_steps"),
        ("save_only_model: true", "a checkpoint can always be resumed"),
        ("eval_table_size: 5", "evaluation.sample_prompts are answered"),
        ("use_tensorboard: true", ""),
        ("dataset_num_proc: 4", "the worker decides that"),
        ("hf_use_auth_token: true", "a worker has its own token"),
        ("chat_template_jinja: x", "a model's template comes with it"),
        ("shuffle_before_merging_datasets: true", ""),
        ("tensor_parallel_size: 2", "processes share a model by parallelism.strategy"),
    ],
)
def test_a_key_of_axolotl_has_its_own_reason(tunesmith: Tunesmith, said: str, reason: str) -> None:
    _, err = imported(tunesmith, f"{AXOLOTL}adapter: lora\n{said}\n")
    key = said.partition(":")[0]
    assert noted(err) == ({key} if reason else set())
    assert f"  {key}: {reason}" in err or not reason


def test_axolotls_older_name_of_special_tokens(tunesmith: Tunesmith) -> None:
    text = f"{AXOLOTL}adapter: lora\ntokens:\n  pad_token: <pad>\n"
    job, err = imported(tunesmith, text)
    assert job["training"]["model"] == {"add_special_tokens": {"pad_token": "<pad>"}}
    assert noted(err) == set()
