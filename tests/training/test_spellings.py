"""Older spellings mean what they meant, flat or in sections; what is not honoured is named."""

import json
from dataclasses import MISSING, Field, fields
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import Seq2SeqTrainingArguments

from tests.vigogne import CANONICAL, FLAT
from training.config import TrainingConfig
from training.refused_keys import REFUSED
from training.spellings import FLAT as WITHOUT_SECTION
from training.spellings import SECTIONS, SPELLINGS, SpellingError, canonical

BITS_8 = {"quantization": {"bits": 8}}
XLA = {"xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}
TRANSFORMERS_4 = {
    "adafactor": False,
    "dispatch_batches": None,
    "evaluation_strategy": "no",
    "fp16_backend": "auto",
    "fp16_opt_level": "O1",
    "fsdp_config": {"min_num_params": 0, "xla": False, **XLA},
    "fsdp_min_num_params": 0,
    "fsdp_transformer_layer_cls_to_wrap": None,
    "group_by_length": False,
    "half_precision_backend": "auto",
    "hub_token": "<HUB_TOKEN>",
    "include_inputs_for_metrics": False,
    "include_tokens_per_second": False,
    "jit_mode_eval": False,
    "mp_parameters": "",
    "no_cuda": False,
    "overwrite_output_dir": False,
    "past_index": -1,
    "per_gpu_eval_batch_size": None,
    "per_gpu_train_batch_size": None,
    "push_to_hub_model_id": None,
    "push_to_hub_organization": None,
    "push_to_hub_token": "<PUSH_TO_HUB_TOKEN>",
    "ray_scope": "last",
    "save_safetensors": True,
    "sharded_ddp": "",
    "split_batches": None,
    "torchdynamo": None,
    "tpu_metrics_debug": False,
    "tpu_num_cores": None,
    "use_ipex": False,
    "use_legacy_prediction_loop": False,
    "use_mps_device": False,
    "xpu_backend": None,
}
"""With the values that they have by themselves."""
BY_LENGTH = {"train_sampling_strategy": "group_by_length"}


def config(**training: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(training)


def refused(**training: Any) -> dict[str, Any]:
    """The only complaint about a configuration."""
    with pytest.raises(ValidationError) as complaint:
        config(**training)
    (error,) = complaint.value.errors()
    return {**error}


@pytest.mark.parametrize("version", FLAT)
def test_the_flat_arguments_of_vigogne_are_the_canonical_configuration(version: str) -> None:
    found = config(**FLAT[version])
    assert found == config(**CANONICAL)
    assert found.requires == {"c++", "cuda"}


def test_a_configuration_that_is_canonical_stays_as_it_is() -> None:
    assert canonical(CANONICAL) == CANONICAL
    whole = TrainingConfig().model_dump(mode="json")
    assert canonical(whole) == whole


@pytest.mark.parametrize(
    ("given", "section", "expected"),
    [
        ({"load_in_4bit": True}, "model", {"quantization": {"bits": 4}}),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_nested_quant": False},
            "model",
            {"quantization": {"bits": 4, "type": "fp4", "double_quant": False}},
        ),
        ({"model": {"load_in_8bit": False}}, "model", {}),
        ({"load_in_4bit": None, "bf16": True}, "model", {"dtype": "bfloat16"}),
        ({"model": {"quantization": None, "load_in_8bit": True}}, "model", BITS_8),
        ({"model": {"load_in_8bit": True, "quantization": None}}, "model", BITS_8),
        ({"use_flash_attention_2": True}, "model", {"attn_implementation": "flash_attention_2"}),
        ({"adapter": "qlora"}, "model", {"quantization": {"bits": 4}}),
        ({"adapter": "qlora", "load_in_4bit": True}, "model", {"quantization": {"bits": 4}}),
        ({"adapter": "none"}, "adapter", {"type": "none"}),
        ({"adapter": {}, "lora_r": 4}, "adapter", {"r": 4}),
        ({"lora_r": 4, "adapter": {"lora_alpha": 8}}, "adapter", {"r": 4, "lora_alpha": 8}),
        ({"lora_target_all_linear_layers": True}, "adapter", {"target_modules": "all-linear"}),
        (
            {"lora_target_all_linear_layers": True, "lora_target_modules": None},
            "adapter",
            {"target_modules": "all-linear"},
        ),
        (
            {"adapter": {"lora_target_modules": None, "lora_target_all_linear_layers": True}},
            "adapter",
            {"target_modules": "all-linear"},
        ),
        ({"target_modules": "q_proj"}, "adapter", {"target_modules": ["q_proj"]}),
        ({"target_modules": "all-linear"}, "adapter", {"target_modules": "all-linear"}),
        (
            {"block_size": 64, "model_max_length": 32},
            "data",
            {"block_size": 64, "max_length": 32},
        ),
        ({"eval_split_ratio": 0.01}, "data", {"eval_split": 0.01}),
        ({"mode": "chat"}, "data", {"format": "messages", "template": "vigogne_chat_v2"}),
        (
            {"processor_style": "vigogne_chat_v3"},
            "data",
            {"format": "messages", "template": "vigogne_chat_v3"},
        ),
        ({"max_steps": -1}, "optimization", {"max_steps": None}),
        ({"optimization": {"max_steps": 5}}, "optimization", {"max_steps": 5}),
        ({"warmup_ratio": 0}, "optimization", {"warmup_steps": 0}),
        ({"warmup_ratio": 0.03, "warmup_steps": 100}, "optimization", {"warmup_steps": 100}),
        ({"warmup_steps": 100, "warmup_ratio": 0.0}, "optimization", {"warmup_steps": 100}),
        ({"warmup_ratio": 0.05, "warmup_steps": 0}, "optimization", {"warmup_steps": 0.05}),
        ({"warmup_steps": 0, "warmup_ratio": None}, "optimization", {"warmup_steps": 0}),
        (
            {"warmup_ratio": 0.05, "optimization": {"warmup_steps": 0}},
            "optimization",
            {"warmup_steps": 0.05},
        ),
        ({"group_by_length": True}, "optimization", BY_LENGTH),
        ({"sortish_sampler": True, "group_by_length": True}, "optimization", BY_LENGTH),
        ({"group_by_length": False, "sortish_sampler": False}, "optimization", {}),
        ({"activation_checkpointing": False}, "optimization", {"gradient_checkpointing": False}),
        ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "model", BITS_8),
        ({"model": {"use_nested_quant": True, "load_in_8bit": True}}, "model", BITS_8),
        ({"load_in_4bit": False, "bnb_4bit_use_double_quant": True}, "model", {}),
        (
            {"load_in_4bit": False, "adapter": "qlora", "bnb_4bit_quant_type": "fp4"},
            "model",
            {"quantization": {"bits": 4, "type": "fp4"}},
        ),
        ({"adapter": None, "lora_r": 4}, "adapter", {"r": 4}),
        ({"adapter": None, "load_in_8bit": True}, "model", BITS_8),
        ({"weight_decay": None, "deepspeed": None}, "optimization", {}),
        ({"dtype": None, "fp16": True}, "model", {"dtype": "float16"}),
        ({"max_length": None, "max_seq_length": 64}, "data", {"max_length": 64}),
        ({"report_to": None}, "reporting", {}),
        ({"report_to": "none"}, "reporting", {"report_to": []}),
        ({"report_to": "tensorboard"}, "reporting", {"report_to": ["tensorboard"]}),
    ],
)  # fmt: skip
def test_what_a_spelling_means(
    given: dict[str, Any], section: str, expected: dict[str, Any]
) -> None:
    before = json.dumps(given)
    found = getattr(config(**given), section).model_dump(exclude_unset=True)
    assert found == expected
    assert json.dumps(given) == before, "what was given is not touched"


@pytest.mark.parametrize(
    ("given", "place", "other"),
    [
        ({"fp16": True, "bf16": True}, ("bf16",), "training.fp16"),
        ({"fp16": True, "model": {"dtype": "float32"}}, ("model", "dtype"), "training.fp16"),
        ({"load_in_8bit": True, "load_in_4bit": True}, ("load_in_4bit",), "training.load_in_8bit"),
        ({"load_in_8bit": True, "adapter": "qlora"}, ("adapter",), "training.load_in_8bit"),
        (
            {"model": {"quantization": {"bits": 8}, "load_in_4bit": True}},
            ("model", "load_in_4bit"),
            "training.model.quantization.bits",
        ),
        (
            {"max_seq_length": 64, "model_max_length": 32},
            ("model_max_length",),
            "training.max_seq_length",
        ),
        (
            {"lora_target_all_linear_layers": True, "target_modules": ["q_proj"]},
            ("target_modules",),
            "training.lora_target_all_linear_layers",
        ),
    ],
)
def test_what_is_set_twice_differently_is_refused(
    given: dict[str, Any], place: tuple[str, ...], other: str
) -> None:
    error = refused(**given)
    assert error["loc"] == place
    assert error["msg"] == f"sets the same thing as {other}; give one of them"


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"load_in_4bit": 4}, ("load_in_4bit",)),
        ({"model": {"fp16": "true"}}, ("model", "fp16")),
        ({"mode": "pretrain"}, ("mode",)),
        ({"warmup_ratio": 1.0}, ("warmup_ratio",)),
        ({"warmup_ratio": 5}, ("warmup_ratio",)),
        ({"optimization": {"warmup_ratio": -0.1}}, ("optimization", "warmup_ratio")),
        ({"warmup_ratio": "0.03"}, ("warmup_ratio",)),
        ({"warmup_ratio": True}, ("warmup_ratio",)),
        ({"group_by_length": 1}, ("group_by_length",)),
        ({"adapter": "ia3"}, ("adapter",)),
        ({"report_to": ["tensorboard", "wandb"]}, ("report_to",)),
        ({"adapter": {"variant": "dora"}}, ("adapter", "variant")),
    ],
)
def test_a_value_that_a_spelling_does_not_have_is_refused(
    given: dict[str, Any], place: tuple[str, ...]
) -> None:
    error = refused(**given)
    assert error["loc"] == place
    assert error["msg"].startswith("Input should be ")


@pytest.mark.parametrize("name", ["wandb", "mlflow", "comet_ml"])
def test_other_trackers_are_asked_for_in_one_way_however_they_are_spelled(name: str) -> None:
    for given in ({"report_to": name}, {"reporting": {"report_to": ["tensorboard", name]}}):
        words = refused(**given)["msg"]
        for kind, needed in (("wandb", "project"), ("mlflow", "experiment")):
            entry = f'{{"type": "{kind}", "{kind}": {{"{needed}": …}}}}'
            assert (entry in words) is (name in {kind, "comet_ml"})


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_is_not_honoured_is_refused_by_name(key: str) -> None:
    value = {"x": "y"}
    for training, place in (({key: value}, (key,)), ({"model": {key: value}}, ("model", key))):
        error = refused(**training)
        assert (error["type"], error["loc"]) == ("refused_key", place)
        assert error["msg"] == REFUSED[key].words
        assert error["input"] is None


@pytest.mark.parametrize("key", REFUSED)
def test_its_harmless_values_change_nothing(key: str) -> None:
    assert REFUSED[key].harmless
    for value in REFUSED[key].harmless:
        assert config(**{key: value}) == TrainingConfig()


@pytest.mark.parametrize("default", fields(Seq2SeqTrainingArguments), ids=lambda each: each.name)
def test_every_argument_of_transformers_is_known(default: Field[Any]) -> None:
    """And its default is let through, but where the service takes the argument elsewhere."""
    value = default.default_factory() if default.default is MISSING else default.default
    if default.name in ELSEWHERE:
        assert refused(**{default.name: value})["type"] == "refused_key"
    else:
        config(**{default.name: value})


ELSEWHERE = frozenset({"seed"})


@pytest.mark.parametrize(
    ("key", "harmless", "asking"),
    [
        ("eval_strategy", ["no", False, "steps"], "epoch"),
        ("evaluation_strategy", ["no", False, "steps"], "epoch"),
        ("fsdp", ["", []], "full_shard"),
        ("fsdp_config", [{}, {"min_num_params": 0, "xla": False, **XLA}], {"min_num_params": 1}),
        ("logging_first_step", [False, True], "no"),
        ("metric_for_best_model", ["loss", "eval_loss"], "accuracy"),
        ("greater_is_better", [False], True),
        ("dataloader_num_workers", [0, 1, 4], [4]),
        ("preprocessing_num_workers", [4], [4]),
        ("dataloader_pin_memory", [False, True, 1], [4]),
        ("log_level", ["info", "passive"], [4]),
        ("disable_tqdm", [False, True], [4]),
        ("tokenizer_use_fast", [False, True], "yes"),
        ("label_smoothing_factor", [0, 0.0], 0.1),
        ("generation_num_beams", [1], 4),
        ("generation_max_length", [], 128),
        ("generation_config", [], "folder"),
        ("length_column_name", ["length"], "size"),
        ("max_source_length", [], 512),
        ("max_target_length", [], 512),
        ("local_rank", [-1, 0], 1),
        ("model_type", ["decoder-only"], "seq2seq"),
        ("gradient_checkpointing_kwargs", [{"use_reentrant": False}], {"use_reentrant": True}),
    ],
)
def test_a_default_of_a_dump_changes_nothing(
    key: str, harmless: list[object], asking: object
) -> None:
    for value in (None, *harmless):
        assert config(**{key: value}) == TrainingConfig()
    assert refused(**{key: asking})["type"] == "refused_key"


def test_a_dump_of_transformers_is_taken_but_for_what_stands_elsewhere() -> None:
    dump = Seq2SeqTrainingArguments(output_dir="out", use_cpu=True).to_dict()
    asked = config(
        **{key: dump[key] for key in dump.keys() - ELSEWHERE - {"output_dir", "use_cpu"}}
    )
    assert asked.optimization.warmup_steps == 0
    assert asked.adapter.type == "lora"


def test_the_arguments_that_only_transformers_4_has_are_known() -> None:
    assert config(**TRANSFORMERS_4) == TrainingConfig()


@pytest.mark.parametrize("training", [{"unheard_of": None}, {"data": {"unheard_of": None}}])
def test_null_makes_no_key_known(training: dict[str, Any]) -> None:
    assert refused(**training)["type"] == "extra_forbidden"


def test_null_is_kept_where_it_stands_for_the_default() -> None:
    """In a change to a configuration."""
    assert canonical({"learning_rate": None}) == {"optimization": {"learning_rate": None}}
    assert canonical({"adapter": None}) == {"adapter": None}
    assert canonical({"dtype": None, "fp16": True}) == {"model": {"dtype": "float16"}}


def test_how_to_quantize_needs_bits() -> None:
    assert refused(bnb_4bit_quant_type="nf4")["loc"] == ("model", "quantization", "bits")


@pytest.mark.parametrize("training", [{"trust_remote_code": 0}, {"do_train": 1}])
def test_a_number_is_no_switch(training: dict[str, Any]) -> None:
    assert refused(**training)["type"] == "refused_key"


def test_nothing_is_both_honoured_and_refused() -> None:
    honoured = {key for config in SECTIONS.values() for key in config.model_fields}
    understood = honoured.union(*SPELLINGS.values(), WITHOUT_SECTION)
    assert understood & REFUSED.keys() == set()


def test_a_key_without_a_section_belongs_to_one_section_only() -> None:
    keys = [key for config in SECTIONS.values() for key in config.model_fields]
    spelled = [
        key
        for name, table in SPELLINGS.items()
        for key in table.keys() - SECTIONS[name].model_fields
    ]
    assert len(set(keys + spelled)) == len(keys + spelled)


@pytest.mark.parametrize("training", [{"type": "lora"}, {"lora": 1}, {"data": {"a.b": 1}}])
def test_a_key_that_nobody_knows_is_left_to_be_refused(training: dict[str, Any]) -> None:
    assert canonical(training) == training
    assert refused(**training)["type"] == "extra_forbidden"


@pytest.mark.parametrize("training", [{"adapter": 5}, {"data": 5, "block_size": 8}, {"model": []}])
def test_a_section_that_is_no_object_is_refused(training: dict[str, Any]) -> None:
    assert refused(**training)["loc"][0] in training


def test_full_training_is_never_fallen_into() -> None:
    """vigogne trains every weight where `adapter` is left out, whatever is said of LoRA."""
    assert config(lora_r=8).adapter.type == "lora"
    assert "lora_r" not in json.dumps(refused(adapter="none", lora_r=8)["msg"])
    with pytest.raises(ValidationError, match="has no r: remove them"):
        config(adapter="none", lora_r=8)


def test_quantized_weights_without_an_adapter_are_refused() -> None:
    with pytest.raises(ValidationError, match="quantized weights cannot be trained"):
        config(adapter="none", load_in_8bit=True)


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(SpellingError) as error:
        canonical({"hub_token": "hf_very_secret"})
    assert "hf_very_secret" not in f"{error.value!r} {error.value.words} {error.value.value}"
