"""Every way an adapter can begin and be shaped: what is saved is what was trained."""

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.other import EMBEDDING_LAYER_NAMES, get_pattern_key
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from tests.training.adapting import (
    adapted_model,
    config_of,
    logits_of,
    make_glm_moe,
    make_gpt2,
    make_mamba,
    make_mixtral,
    make_qwen_moe,
    reopened,
    train_steps,
    written,
)
from tests.training.runs import adapter, curve, prepare, train
from training.adapters import subject_of
from training.config import TrainingConfig
from training.events import Progress
from training.facts import ModelFacts, misfits
from training.inspection import inspect_model
from training.model import load_model
from training.targets import TIED_NAMES, adapted, adapted_experts
from training.weight_names import listed, pattern_matcher

slow = pytest.mark.slow
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
EVERYTHING = {
    "init_lora_weights": "pissa",
    "use_rslora": True,
    "use_dora": True,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"v_proj": 3, "q_proj": 5},
}
PATTERNS = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\..*down_proj": 8},
    "alpha_pattern": {"v_proj": 3},
}
VARIANTS = [
    pytest.param("llama", {}, id="lora"),
    pytest.param("llama", {"init_lora_weights": "gaussian"}, id="gaussian", marks=slow),
    pytest.param("llama", {"init_lora_weights": "orthogonal"}, id="orthogonal", marks=slow),
    pytest.param("llama", {"init_lora_weights": "mica"}, id="mica", marks=slow),
    pytest.param("llama", {"init_lora_weights": "pissa"}, id="pissa", marks=slow),
    pytest.param("llama", {"init_lora_weights": "pissa_niter_4"}, id="pissa_niter"),
    pytest.param("llama", {"init_lora_weights": "olora"}, id="olora"),
    pytest.param("llama", {"use_rslora": True}, id="rslora", marks=slow),
    pytest.param("llama", {"use_dora": True}, id="dora"),
    pytest.param("llama", PATTERNS, id="patterns"),
    pytest.param("llama", EVERYTHING, id="pissa, rslora, dora, patterns"),
    pytest.param("llama", {"layers_to_transform": [1]}, id="one layer", marks=slow),
    pytest.param("llama", {"modules_to_save": ["embed_tokens"]}, id="embedding saved"),
    pytest.param("gpt2", {}, id="gpt2", marks=slow),
    pytest.param("gpt2", {"use_dora": True}, id="gpt2 dora", marks=slow),
    pytest.param("gpt2", {"init_lora_weights": "pissa"}, id="gpt2 pissa", marks=slow),
    pytest.param("gpt2", {"init_lora_weights": "olora"}, id="gpt2 olora"),
    pytest.param("mixtral", {}, id="mixtral"),
    pytest.param(
        "mixtral", {"target_modules": ["embed_tokens", "lm_head"]}, id="embedding", marks=slow
    ),
    pytest.param("qwen", {"target_modules": [], "target_parameters": EXPERTS}, id="qwen experts"),
    pytest.param("glm", {}, id="shared expert", marks=slow),
    pytest.param("mamba", {}, id="mamba"),
]
MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "gpt2": make_gpt2,
    "mamba": make_mamba,
    "mixtral": make_mixtral,
    "qwen": make_qwen_moe,
    "glm": make_glm_moe,
}


class Folders(dict[str, Path]):
    """Models by name, made when they are asked for."""

    def __init__(self, llama: Path, root: Path) -> None:
        super().__init__(llama=llama)
        self._root = root

    def __missing__(self, name: str) -> Path:
        self[name] = MAKERS[name](self._root / name)
        return self[name]


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tiny_model, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("name", "keys"), VARIANTS)
def test_base_and_saved_adapter_are_what_was_trained(
    folders: Folders, tmp_path: Path, name: str, keys: dict[str, Any]
) -> None:
    model = adapted_model(folders[name], config_of(adapter={"r": 4, "lora_alpha": 8, **keys}))
    begun = logits_of(model)
    train_steps(model, 3)
    trained = logits_of(model)
    assert (trained - begun).abs().max() > 0.01

    saved = written(model, tmp_path / "saved")

    again = reopened(folders[name], saved)
    assert (logits_of(again) - trained).abs().max() < 1e-5
    merged = again.merge_and_unload()
    assert (logits_of(merged) - trained).abs().max() < 1e-5
    written_as = json.loads((saved / "adapter_config.json").read_text())
    assert written_as["init_lora_weights"] is True
    assert written_as["base_model_name_or_path"] == "tiny"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama", EVERYTHING),
        ("llama", {"init_lora_weights": "pissa_niter_2"}),
        ("gpt2", {"init_lora_weights": "olora"}),
        ("llama", {"init_lora_weights": "mica", "modules_to_save": ["norm"]}),
        ("mixtral", {}),
        ("loftq", {"init_lora_weights": "loftq"}),
    ],
    ids=["everything", "pissa_niter", "gpt2 olora", "mica", "experts", "loftq"],
)
def test_training_goes_on_bit_for_bit(
    folders: Folders, tmp_path: Path, name: str, keys: dict[str, Any]
) -> None:
    quantization = {"bits": 4} if name == "loftq" else None
    folder = folders["llama" if name == "loftq" else name]
    config = config_of(adapter={"r": 4, **keys}, model={"quantization": quantization})
    straight = adapted_model(folder, config)
    state = train_steps(straight, 2)
    saved = written(straight, tmp_path / "saved")
    train_steps(straight, 2, state)

    # Another seed: nothing may be drawn anew.
    resumed = adapted_model(folder, config, saved=saved, seed=99)
    train_steps(resumed, 2, state)

    one, other = (written(m, tmp_path / n) for m, n in ((straight, "one"), (resumed, "other")))
    left, right = adapter(one), adapter(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert torch.equal(logits_of(straight), logits_of(resumed))


def test_a_paused_run_that_took_its_base_apart_goes_on_exactly(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)
    settings = {
        "adapter": {"r": 4, "lora_dropout": 0.1, **EVERYTHING},
        "optimization": {"max_steps": 5, "learning_rate": 0.01},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    straight = prepare(tmp_path / "straight", tiny_model, settings)
    paused = prepare(tmp_path / "paused", tiny_model, settings)
    assert train(straight).outcome == "succeeded"
    stopped = train(
        paused, stop_when=lambda e: isinstance(e, Progress) and e.step == 2, reason="pause"
    )
    assert stopped.outcome == "interrupted"
    assert train(paused).outcome == "succeeded"
    assert curve(paused) == curve(straight)
    left, right = adapter(paused.result), adapter(straight.result)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (paused.result / "adapter_config.json").read_bytes() == (
        straight.result / "adapter_config.json"
    ).read_bytes()


def test_a_job_goes_on_from_an_adapter_that_took_its_base_apart(
    tiny_model: Path, tmp_path: Path
) -> None:
    def settings(max_steps: int, learning_rate: float) -> dict[str, Any]:
        return {
            "adapter": {"r": 4, **EVERYTHING},
            "optimization": {
                "max_steps": max_steps,
                "learning_rate": learning_rate,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
                "per_device_train_batch_size": 40,
            },
            "reporting": {"logging_steps": 1, "report_to": []},
        }

    longer = prepare(tmp_path / "longer", tiny_model, settings(3, 0.01))
    parent = prepare(tmp_path / "parent", tiny_model, settings(2, 0.01))
    assert train(longer).outcome == train(parent).outcome == "succeeded"
    start = {"path": str(parent.result), "name": "ft:tiny:o::1"}
    child = prepare(tmp_path / "child", tiny_model, settings(1, 1e-30), start=start)
    assert train(child).outcome == "succeeded"
    assert curve(child)[1] == pytest.approx(curve(longer)[3], rel=1e-6)
    before, after = adapter(parent.result), adapter(child.result)
    assert all(torch.equal(before[name], after[name]) for name in before)

    other = settings(1, 1e-30) | {"adapter": {"r": 4, **EVERYTHING, "use_dora": False}}
    refused = train(prepare(tmp_path / "other", tiny_model, other, start=start)).failure
    assert refused is not None
    assert refused.param == "training.adapter.use_dora"


@pytest.mark.parametrize(
    ("start", "theirs"), [("pissa", "pissa"), ("olora", "olora"), ("pissa_niter_16", "pissa")]
)
def test_it_begins_where_peft_begins(folders: Folders, start: str, theirs: Any) -> None:
    config = config_of(adapter={"r": 4, "lora_alpha": 12, "init_lora_weights": start})
    ours = adapted_model(folders["llama"], config)
    base = AutoModelForCausalLM.from_pretrained(folders["llama"])
    untouched = logits_of(base)
    asked = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=12,
        target_modules="all-linear",
        init_lora_weights=theirs,
    )
    found, expected = ours.state_dict(), get_peft_model(base, asked).state_dict()

    assert (logits_of(ours) - untouched).abs().max() < 1e-5
    names = [name for name in found if name.endswith("lora_A.default.weight")]
    assert len(names) == 14
    for name in names:
        b, rest = name.replace("lora_A", "lora_B"), name.replace("lora_A.default", "base_layer")
        if start == theirs:
            product = found[b] @ found[name]
            assert torch.allclose(product, expected[b] @ expected[name], atol=1e-6)
            assert torch.allclose(found[rest], expected[rest], atol=1e-6)
        # As much is taken out of the base, or nearly so with a few iterations.
        assert found[rest].norm() < 1.01 * expected[rest].norm()


def test_loftq_begins_with_what_quantization_took(folders: Folders, tmp_path: Path) -> None:
    folder, four_bits = folders["llama"], {"quantization": {"bits": 4}}
    whole = logits_of(AutoModelForCausalLM.from_pretrained(folder))

    def error(start: object) -> float:
        adapter = {"r": 16, "lora_alpha": 8, "init_lora_weights": start}
        model = adapted_model(folder, config_of(adapter=adapter, model=four_bits))
        return float((logits_of(model) - whole).square().mean())

    assert error("loftq") < 0.6 * error(True)

    config = config_of(adapter={"r": 16, "init_lora_weights": "loftq"}, model=four_bits)
    model = adapted_model(folder, config)
    train_steps(model, 3)
    trained = logits_of(model)
    saved = reopened(folder, written(model, tmp_path / "saved"))
    # On the whole base it is the change alone: nearer to what was trained than that base is.
    assert (logits_of(saved) - trained).square().mean() < 0.1 * (whole - trained).square().mean()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama", {}),
        ("llama", {"target_modules": ["self_attn.q_proj", "down_proj"], **PATTERNS}),
        ("llama", {"layers_to_transform": [1], "modules_to_save": ["layers.1.mlp.up_proj"]}),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [0]}),
        ("gpt2", {}),
        ("mixtral", {}),
        ("mixtral", {"layers_to_transform": [0], "target_parameters": ["mlp.gate.weight"]}),
        ("qwen", {"target_modules": ["o_proj"], "target_parameters": EXPERTS}),
        ("glm", {}),
    ],
)
def test_what_gets_an_adapter_is_what_was_foreseen(
    folders: Folders, name: str, keys: dict[str, Any]
) -> None:
    keys.pop("rank_pattern", None)
    keys.pop("alpha_pattern", None)
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
    ("mamba", {"target_modules": ["in_proj", "out_proj"]}, "target_modules", "no 'out_proj' in"),
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

    def found(name: str, *targets: str) -> list[str]:
        adapter = {"target_modules": list(targets) or "all-linear"}
        return [
            m.message for m in misfits(config_of(adapter=adapter, parallelism=shared), facts[name])
        ]

    (message,) = found("mixtral")
    assert "experts of this model as well, which needs whole weights" in message
    assert found("mixtral", "q_proj") == found("llama") == []


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
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(training)


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
