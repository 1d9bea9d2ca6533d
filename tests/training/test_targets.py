"""What an adapter is put on is foreseen from a model's facts, and refused where it cannot be."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.other import EMBEDDING_LAYER_NAMES, get_pattern_key
from pydantic import ValidationError

from tests.training.adapting import (
    EXPERTS,
    Folders,
    adapted_model,
    config_of,
)
from tests.training.refusals import names_a_key
from tests.training.runs import prepare, train
from training.adapters import subject_of
from training.config import TrainingConfig
from training.facts import ModelFacts, misfits
from training.inspection import inspect_model
from training.model import load_model
from training.targets import TIED_NAMES, adapted, adapted_experts
from training.weight_names import listed, pattern_matcher


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama", {}),
        ("llama", {"target_modules": ["self_attn.q_proj", "down_proj"]}),
        ("llama", {"layers_to_transform": [1], "modules_to_save": ["layers.1.mlp.up_proj"]}),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [0]}),
        ("gpt2", {}),
        ("mixtral", {}),
        ("mixtral", {"layers_to_transform": [0], "target_parameters": ["mlp.gate.weight"]}),
        ("qwen", {"target_modules": ["o_proj"], "target_parameters": EXPERTS}),
        ("glm", {}),
        ("mamba", {}),
    ],
)
def test_what_gets_an_adapter_is_what_was_foreseen(
    folders: Folders, name: str, keys: dict[str, Any]
) -> None:
    config = config_of(adapter={"r": 4, **keys})
    facts = inspect_model(folders[name])
    base = load_model(folders[name], config)
    subject = subject_of(base)
    assert set(listed(facts.weights)) == set(subject.weights)
    foreseen = {weight.module for weight in adapted(config.adapter, subject)}
    asked = {
        w.name for w in subject.weights if w.name.endswith(tuple(config.adapter.target_parameters))
    }
    parameters = {weight.name for weight in adapted_experts(config.adapter, subject)}
    if config.adapter.target_parameters:
        parameters |= asked

    model = adapted_model(folders[name], config)

    assert isinstance(model, PeftModel)
    found, found_parameters = set(), set()
    for path, module in model.base_model.model.named_modules():
        if isinstance(module, ParamWrapper):
            found_parameters.add(f"{path.replace('.base_layer', '')}.{module.parameter_name}")
        elif isinstance(module, LoraLayer):
            found.add(path)
    assert (found, found_parameters) == (foreseen, parameters)
    assert found | found_parameters


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("llama", {"target_modules": ["q_proj", "query"]}, "target_modules", "no linear layer 'query'"),
    ("llama", {"target_modules": ["norm"]}, "target_modules", "no linear layer 'norm'; it has do"),
    ("llama", {"target_modules": ["lm_head"]}, "target_modules", "its weight with the embedding"),
    ("llama", {"target_modules": ["embed_tokens"]}, "target_modules", "its weight with the head"),
    (
        "llama",
        {"layers_to_transform": [0, 2]},
        "layers_to_transform",
        "no layer 2; they are 0 t",
    ),
    ("llama", {"modules_to_save": ["head"]}, "modules_to_save", "no module 'head'; it has down"),
    (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["q_proj"]},
        "modules_to_save",
        "in target_modules, too",
    ),
    ("llama", {"target_parameters": ["experts.up"]}, "target_parameters", "several experts: none"),
    (
        "llama",
        {"target_parameters": ["norm.weight"]},
        "target_parameters",
        "has 1 dimensions",
    ),
    (
        "llama",
        {"target_modules": ["q_proj"], "target_parameters": ["k_proj.weight"]},
        "target_parameters",
        "name the layer in target_modules",
    ),
    ("llama", {"rank_pattern": {"query": 2}}, "rank_pattern", "'query' fits no module"),
    (
        "llama",
        {"target_modules": ["q_proj"], "alpha_pattern": {"v_proj": 2}},
        "alpha_pattern",
        "'v_proj' fits no module that gets",
    ),
    (
        "llama",
        {"rank_pattern": {"q_proj": 2, "self_attn.q_proj": 3}},
        "rank_pattern",
        "'q_proj' and 'self_attn.q_proj' fit",
    ),
    (
        "llama",
        {"r": 33, "init_lora_weights": "olora"},
        "init_lora_weights",
        "more than 32 ranks",
    ),
    ("llama", {"fan_in_fan_out": True}, "fan_in_fan_out", r"as \(out, in\)"),
    ("gpt2", {"fan_in_fan_out": False}, "fan_in_fan_out", r"as \(in, out\)"),
    ("gpt2", {"modules_to_save": ["wte"]}, "modules_to_save", "embed_tokens and lm_head only"),
    ("mixtral", {"lora_dropout": 0.1}, "target_modules", "which lora_dropout does not go with"),
    ("mixtral", {"use_dora": True}, "target_modules", "which use_dora does not go with"),
    ("mixtral", {"rank_pattern": {"gate_up_proj": 2}}, "rank_pattern", "fits a parameter"),
    (
        "mixtral",
        {"target_modules": ["embed_tokens"], "init_lora_weights": "pissa"},
        "init_lora_weights",
        "'embed_tokens' is not",
    ),
    ("glm", {"target_modules": ["up_proj"]}, "target_modules", "mlp.up_proj.weight"),
    (
        "llama",
        {
            "modules_to_save": [
                *("q_proj", "k_proj", "v_proj", "o_proj"),
                *("gate_proj", "up_proj", "down_proj"),
            ]
        },
        "modules_to_save",
        "none is left for an adapter",
    ),
    ("mamba", {"target_modules": ["in_proj", "out_proj"]}, "target_modules", "no 'out_proj' in"),
    ("gpt2", {"target_modules": ["wte"]}, "target_modules", "would change both: remove it"),
    (
        "mamba",
        {"target_parameters": ["conv1d.weight"]},
        "target_parameters",
        "'conv1d.weight' is a convolution",
    ),
]


@pytest.mark.parametrize(("name", "keys", "param", "message"), REFUSED)
def test_what_the_model_does_not_have_is_refused_at_submission(
    folders: Folders, name: str, keys: dict[str, Any], param: str, message: str
) -> None:
    config = config_of(adapter=keys)
    facts = ModelFacts.model_validate_json(inspect_model(folders[name]).model_dump_json())
    found = list(misfits(config, facts))
    assert [misfit.param for misfit in found] == [f"training.adapter.{param}"]
    assert re.search(message, found[0].message)


def test_an_attention_that_the_architecture_does_not_have(folders: Folders) -> None:
    facts = inspect_model(folders["mamba"])
    (misfit,) = misfits(config_of(model={"attn_implementation": "sdpa"}), facts)
    assert misfit.param == "training.model.attn_implementation"
    assert "MambaForCausalLM has no 'sdpa', but eager" in misfit.message
    assert not list(misfits(config_of(model={"attn_implementation": "eager"}), facts))


@pytest.mark.parametrize(
    ("said", "model", "is_refused"),
    [
        ({"bos_token": None}, {}, True),
        ({"bos_token": None}, {"add_special_tokens": {"bos_token": "<s>"}}, False),
        ({"bos_token": "<s>"}, {}, False),
        ({}, {}, False),
    ],
)
def test_a_token_that_the_tokenizer_does_not_have(
    tiny_model: Path,
    tmp_path: Path,
    said: dict[str, Any],
    model: dict[str, Any],
    *,
    is_refused: bool,
) -> None:
    """Where its files do not say, it may have one by its kind: that is found out by the run."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("bos_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **said}))
    facts = inspect_model(folder)
    asked = config_of(data={"template": "chatml", "add_bos_token": True}, model=model)
    params = [misfit.param for misfit in misfits(asked, facts)]
    assert params == (["training.data.add_bos_token"] if is_refused else [])
    assert not list(misfits(config_of(data={"add_bos_token": False}), facts))


def test_an_adapted_embedding_gets_no_rows_for_new_tokens(folders: Folders) -> None:
    facts = inspect_model(folders["mixtral"])
    adapter = {"target_modules": ["q_proj", "embed_tokens"]}
    assert not list(misfits(config_of(adapter=adapter), facts))
    (misfit,) = misfits(config_of(adapter=adapter, model={"add_tokens": ["<x>"]}), facts)
    assert "cannot have both" in misfit.message


def test_what_is_refused_at_submission_is_refused_by_training(
    tiny_model: Path, tmp_path: Path
) -> None:
    refused = train(prepare(tmp_path, tiny_model, {"adapter": {"rank_pattern": {"query": 2}}}))
    assert refused.failure is not None
    assert refused.failure.param == "training.adapter.rank_pattern"
    assert refused.failure.message.startswith(
        "'query' fits no module that gets an adapter; those are down_proj, gate_proj, k_proj"
    )


def test_experts_are_not_adapted_where_no_process_has_them_whole(folders: Folders) -> None:
    facts = {name: inspect_model(folders[name]) for name in ("llama", "mixtral")}
    shared = {"strategy": "zero3", "num_processes": 2}

    def found(name: str, **adapter: Any) -> list[str]:
        asked = config_of(adapter=adapter, parallelism=shared)
        return [misfit.message for misfit in misfits(asked, facts[name])]

    (message,) = found("mixtral")
    assert "experts of this model as well, which needs whole weights" in message
    assert found("mixtral", target_modules=["q_proj"]) == found("llama") == []
    assert found("mixtral", type="none") == []


def test_facts_of_before_the_weights_were_noted_are_enough() -> None:
    facts = ModelFacts(
        architecture="LlamaForCausalLM",
        model_type="llama",
        num_parameters=1,
        context_length=2048,
        vocab_size=400,
        linear_modules=("q_proj",),
        module_names=("norm", "q_proj"),
        tie_word_embeddings=True,
        has_chat_template=True,
        bytes=1,
        sha256="0",
    )
    asked = config_of(adapter={"target_modules": ["k_proj"], "modules_to_save": ["norm", "head"]})
    assert [misfit.message for misfit in misfits(asked, facts)] == [
        "the model has no module 'k_proj'; it has q_proj",
        "the model has no module 'head'; it has norm, q_proj",
    ]


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"adapter": {"init_lora_weights": "eva"}}, "needs a pass over the data"),
    ({"adapter": {"init_lora_weights": False}}, "should be true, 'gaussian'"),
    ({"adapter": {"init_lora_weights": "pissa_niter_"}}, "or 'pissa_niter_N'"),
    ({"adapter": {"init_lora_weights": "orthogonal", "r": 3}}, "needs even ranks, and 3 is odd"),
    ({"adapter": {"init_lora_weights": "mica", "use_dora": True}}, "freezes lora_B"),
    ({"adapter": {"init_lora_weights": "mica", "loraplus_lr_ratio": 4}}, "freezes lora_B, whose"),
    ({"adapter": {"lora_alpha": 1e-40}}, "adapter.lora_alpha"),
    (
        {"model": {"attn_implementation": "flash_attention_2", "dtype": "float32"}},
        'computes in 16 bits: set dtype to "bfloat16"',
    ),
    ({"adapter": {"target_modules": []}}, "target_modules names nothing"),
    (
        {"adapter": {"target_parameters": ["experts.up"], "lora_dropout": 0.1}},
        "target_parameters does not go with lora_dropout",
    ),
    (
        {
            "adapter": {"target_parameters": ["experts.up"]},
            "parallelism": {"strategy": "zero3", "num_processes": 2},
        },
        "target_parameters needs whole weights",
    ),
    ({"adapter": {"rank_pattern": {"(": 2}}}, r"'\('? is no regular expression"),
    ({"adapter": {"rank_pattern": {"(?=q)": 2}}}, "without look-around"),
    ({"adapter": {"type": "none", "use_dora": True}}, "has no use_dora"),
    ({"adapter": {"init_lora_weights": "loftq"}}, r'set model.quantization to \{"bits": 4\}'),
    (
        {"adapter": {"init_lora_weights": "loftq"}, "model": {"quantization": {"bits": 8}}},
        "set model.quantization.bits to 4",
    ),
    (
        {"adapter": {"init_lora_weights": "pissa"}, "model": {"quantization": {"bits": 4}}},
        '"pissa" begins with the base weights as they are',
    ),
    (
        {"adapter": {"use_dora": True}, "model": {"quantization": {"bits": 8}}},
        "cannot be trained on 8-bit weights",
    ),
    (
        {"adapter": {"type": "none"}, "model": {"quantization": {"bits": 8}}},
        "quantized weights cannot be trained",
    ),
    ({"adapter": {"variant": "dora"}}, r"adapter\.variant\n  Input should be spelled as in PEFT"),
]


@pytest.mark.parametrize(("training", "message"), CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused(
    training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        TrainingConfig.model_validate(training)
    assert names_a_key(caught.value)


def test_older_spellings() -> None:
    for old in ({"variant": None}, {"lora_fan_in_fan_out": False}, {}):
        assert TrainingConfig.model_validate({"adapter": old}) == TrainingConfig()
    spelled = TrainingConfig.model_validate({"adapter": {"lora_fan_in_fan_out": True}})
    assert spelled.adapter.fan_in_fan_out is True


@pytest.mark.parametrize("pattern", ["(a+)+b", r"(\w+\.?)+x", "(.|.)" * 20 + "x"])
def test_no_pattern_takes_long(pattern: str) -> None:
    matcher = pattern_matcher(pattern)
    began = time.process_time()
    assert not matcher("model.layers.0.self_attn." + "a" * 200)
    assert time.process_time() - began < 1


def test_patterns_fit_as_in_peft() -> None:
    names = ["model.layers.1.mlp.up_proj", "up_proj", "model.layers.11.mlp.up_proj"]
    for pattern in ("up_proj", r"layers\.1\.mlp\.up_proj", "proj", "^up_proj", r"\d+.mlp.up_proj"):
        for name in names:
            expected = get_pattern_key([pattern], name) == pattern
            assert pattern_matcher(pattern)(name) is expected


def test_the_short_form_of_the_weights_is_short_and_whole(folders: Folders) -> None:
    facts = inspect_model(folders["glm"])
    weights = listed(facts.weights)
    # One dense layer, then one of experts: what both have is named once.
    both = {group.name: (group.first, group.last) for group in facts.weights}
    assert both["model.layers.*.self_attn.q_proj.weight"] == (0, 1)
    assert both["model.layers.*.mlp.experts.gate_up_proj"] == (1, 1)
    assert both["model.norm.weight"] == (None, None)
    assert len({weight.name for weight in weights}) == len(weights)
    assert set(facts.taken_names) >= {"gate_proj", "up_proj", "down_proj"}


def test_tied_names_are_pefts() -> None:
    assert set(TIED_NAMES) == set(EMBEDDING_LAYER_NAMES)
