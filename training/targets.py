"""What a configuration asks of a model's weights, and which of it the model does not have. Light.

The API asks this of the facts in the catalogue, the training process of the model it has loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from training.adapter_config import AdapterConfig
from training.misfit import Misfit
from training.weight_names import Weight, named, pattern_matcher

LINEAR = ("linear", "conv1d")
_LAYERS = (*LINEAR, "head", "embedding")
TIED_NAMES = ("embed_tokens", "lm_head")
"""Modules that share a weight and that PEFT knows to keep the same."""
_MOST_SHOWN = 24


@dataclass(frozen=True)
class Subject:
    """A model whose weights are asked for.

    Attributes:
        tied: Whether its head is its embedding.
        quantized: Whether its linear layers will be.
        taken_names: Of linear layers, which PEFT takes for parts of the experts in models of this
            architecture; it adapts such a layer by its weight only.
        barred_names: Of linear layers, which PEFT refuses to adapt in models of this architecture.
        in_parts: Whether its weights are taken apart, so that no process has them whole.
        has_encoder: Whether it has two sides, which share its embedding if that is tied.
    """

    weights: Sequence[Weight]
    tied: bool
    quantized: bool
    taken_names: frozenset[str] = frozenset()
    barred_names: frozenset[str] = frozenset()
    in_parts: bool = False
    has_encoder: bool = False

    @property
    def layers(self) -> list[Weight]:
        """The weights of layers that an adapter can be put on."""
        return [w for w in self.weights if w.kind in _LAYERS and w.name.endswith(".weight")]

    @property
    def linear(self) -> list[Weight]:
        return [weight for weight in self.layers if weight.kind in LINEAR]

    @property
    def adaptable(self) -> list[Weight]:
        return [weight for weight in self.linear if _leaf(weight) not in self.barred_names]

    @property
    def experts(self) -> list[Weight]:
        """The weights that are those of several experts in one."""
        return [w for w in self.weights if len(w.shape) == 3 and w.kind != "convolution"]


def adapted(config: AdapterConfig, subject: Subject) -> list[Weight]:
    """The weights of the layers that get an adapter."""
    return [
        weight
        for weight in _targeted(config, subject)
        if (config.layers_to_transform is None or weight.layer in config.layers_to_transform)
        and not _any_named(weight.module, config.modules_to_save)
    ]


def adapted_experts(config: AdapterConfig, subject: Subject) -> list[Weight]:
    """The weights that "all-linear" adapts by themselves: of experts, and under taken names.

    Many experts lie in one tensor and are no layers; they are linear all the same.
    """
    if config.target_modules != "all-linear":
        return []
    return [
        weight
        for weight in chain(subject.experts, _under_taken_names(subject))
        if (config.layers_to_transform is None or weight.layer in config.layers_to_transform)
        and not _any_named(weight.module, config.modules_to_save)
        and not _any_named(weight.name, config.target_parameters)
    ]


def skipped_layers(config: AdapterConfig, subject: Subject) -> list[str]:
    """Names of linear layers that "all-linear" cannot adapt."""
    if config.target_modules != "all-linear" or not subject.quantized:
        return []
    return sorted({_leaf(w) for w in subject.linear if _leaf(w) in subject.taken_names})


def target_misfits(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    """Every reason why an adapter cannot be put on the model as it is asked for."""
    rules = (_modules, _experts, _layer_numbers, _saved, _parameters, _patterns, _ranks, _storage)
    return chain.from_iterable(rule(config, subject) for rule in rules)


def _targeted(config: AdapterConfig, subject: Subject) -> list[Weight]:
    if config.target_modules == "all-linear":
        return [w for w in subject.adaptable if _leaf(w) not in subject.taken_names]
    return [w for w in subject.layers if _any_named(w.module, config.target_modules)]


def _under_taken_names(subject: Subject) -> list[Weight]:
    if subject.quantized:
        return []
    return [weight for weight in subject.linear if _leaf(weight) in subject.taken_names]


def _leaf(weight: Weight) -> str:
    return weight.module.rpartition(".")[2]


def _any_named(name: str, asked: Iterable[str]) -> bool:
    return any(named(name, each) for each in asked)


def _modules(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    if config.target_modules == "all-linear":
        everywhere = config.model_copy(update={"layers_to_transform": None})
        if not subject.linear:
            yield _misfit("target_modules", 'the model has no linear layers for "all-linear"')
        elif not (adapted(everywhere, subject) or adapted_experts(everywhere, subject)):
            yield _misfit(
                "modules_to_save",
                "every layer is trained whole, and none is left for an adapter: leave one out, or "
                'set type to "none"',
            )
        return
    for name in config.target_modules:
        found = [weight for weight in subject.layers if named(weight.module, name)]
        if not found:
            yield _misfit("target_modules", _unknown(name, subject.adaptable, "linear layer"))
        for weight in found[:1]:
            yield from _not_adaptable(name, weight, config, subject)


def _not_adaptable(
    name: str, weight: Weight, config: AdapterConfig, subject: Subject
) -> Iterator[Misfit]:
    if weight.kind in LINEAR and _leaf(weight) in subject.taken_names:
        yield _misfit(
            "target_modules",
            f"PEFT takes {name!r} for a part of the experts in this architecture: name weights "
            f'in target_parameters, e.g. "{".".join(weight.name.split(".")[-3:])}"',
        )
    elif weight.kind in LINEAR and _leaf(weight) in subject.barred_names:
        yield _misfit(
            "target_modules",
            f"PEFT adapts no {name!r} in this architecture, which reads its weight past any "
            "adapter: remove it",
        )
    elif weight.kind in {"embedding", "head"} and subject.tied:
        can_be_whole = _leaf(weight) in TIED_NAMES and not subject.has_encoder
        way_out = "train it whole in modules_to_save" if can_be_whole else "remove it"
        yield _misfit(
            "target_modules",
            f"{name!r} shares its weight with the {_other(weight)}, so that an adapter of one "
            f"would change both: {way_out}",
        )
    elif weight.kind == "embedding" and config.init_lora_weights not in {True, "gaussian"}:
        yield _misfit(
            "init_lora_weights",
            f"{config.init_lora_weights!r} is for linear layers, which {name!r} is not: "
            "leave it out of target_modules, or set init_lora_weights to true",
        )


def _other(weight: Weight) -> str:
    return "head" if weight.kind == "embedding" else "embedding"


def _experts(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    asked = config.not_for_parameters()
    if asked and adapted_experts(config, subject):
        yield _misfit(
            "target_modules",
            f'"all-linear" adapts the experts of this model as well, which {asked[0]} does not '
            "go with: leave that out, or name target_modules",
        )
    if subject.in_parts and adapted_experts(config, subject):
        yield _misfit(
            "target_modules",
            '"all-linear" adapts the experts of this model as well, which needs whole weights, and '
            'no process has those: set parallelism.strategy to "ddp" or "zero2", or name '
            "target_modules",
        )


def _layer_numbers(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    known = sorted({w.layer for w in _targeted(config, subject) if w.layer is not None})
    for number in config.layers_to_transform or ():
        if number not in known:
            has = f"they are {known[0]} to {known[-1]}" if known else "its targets have no numbers"
            yield _misfit("layers_to_transform", f"the model has no layer {number}; {has}")


def _saved(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    for name in config.modules_to_save:
        found = [weight for weight in subject.weights if named(weight.module, name)]
        if not found:
            yield _misfit("modules_to_save", _unknown(name, subject.weights, "module"))
        for weight in found[:1]:
            yield from _not_trainable(name, weight, subject)
        if name in TIED_NAMES and subject.tied and subject.has_encoder:
            # PEFT would put a head in the place of the encoder's embedding.
            yield _misfit(
                "modules_to_save",
                f"{name} shares its weight with both the encoder and the decoder of this model, "
                "and cannot be trained whole beside an adapter",
                'leave it out, or set training.adapter.type to "none"',
            )
    if config.target_modules != "all-linear":
        for name in config.target_modules:
            if _any_named(name, config.modules_to_save):
                yield _misfit(
                    "modules_to_save",
                    f"{name!r} is in target_modules, too: it is trained whole or gets an "
                    "adapter, not both",
                )


def _not_trainable(name: str, weight: Weight, subject: Subject) -> Iterator[Misfit]:
    if subject.quantized and weight.kind in LINEAR:
        yield _misfit(
            "modules_to_save",
            f"{name!r} is a quantized layer, whose weights cannot be trained: "
            "remove it, or remove model.quantization",
        )
    is_tied = subject.tied and weight.kind in {"embedding", "head"}
    if is_tied and _leaf(weight) not in TIED_NAMES:
        yield _misfit(
            "modules_to_save",
            f"{name!r} shares its weight with the {_other(weight)}, which PEFT keeps the "
            f"same for {' and '.join(TIED_NAMES)} only: remove it",
        )


def _parameters(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    modules = {weight.name for weight in adapted(config, subject)}
    for name in config.target_parameters:
        found = [weight for weight in subject.weights if named(weight.name, name)]
        for problem in _parameter_problems(name, found, modules, subject):
            yield _misfit("target_parameters", problem)


def _parameter_problems(
    name: str, found: list[Weight], modules: set[str], subject: Subject
) -> Iterator[str]:
    if not found:
        known = _shown({".".join(w.name.split(".")[-2:]) for w in subject.experts})
        yield f"the model has no parameter {name!r}; those of several experts: {known or 'none'}"
    for weight in found[:1]:
        if len(weight.shape) not in {2, 3}:
            yield f"{name!r} has {len(weight.shape)} dimensions; 2 or 3 can be adapted"
        if weight.kind == "convolution":
            yield f"{name!r} is a convolution, which gets no adapter"
        if weight.name in modules:
            yield f"{name!r} belongs to a layer that target_modules adapts already"
        elif weight.kind in _LAYERS and (
            subject.quantized or _leaf(weight) not in subject.taken_names
        ):
            yield f"{name!r} belongs to a layer: name the layer in target_modules"


def _patterns(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    modules = [weight.module for weight in adapted(config, subject)]
    parameters = [
        *(w.name for w in subject.weights if _any_named(w.name, config.target_parameters)),
        *(w.name for w in adapted_experts(config, subject)),
    ]
    for key, patterns in (
        ("rank_pattern", config.rank_pattern),
        ("alpha_pattern", config.alpha_pattern),
    ):
        for pattern in patterns:
            fits = pattern_matcher(pattern)
            if any(map(fits, parameters)):
                # PEFT 0.21 reads such a file back with another rank than it wrote.
                yield _misfit(key, f"{pattern!r} fits a parameter; r and lora_alpha hold for those")
            elif not any(map(fits, modules)):
                names = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
                yield _misfit(
                    key, f"{pattern!r} fits no module that gets an adapter; those are {names}"
                )
        yield from _ambiguous(key, patterns, modules)


def _ambiguous(key: str, patterns: Mapping[str, float], modules: list[str]) -> Iterator[Misfit]:
    """PEFT takes the first that fits, and its files do not keep the order."""
    for module in modules:
        fitting = [pattern for pattern in patterns if pattern_matcher(pattern)(module)]
        if len({patterns[pattern] for pattern in fitting}) > 1:
            both = " and ".join(map(repr, fitting))
            yield _misfit(key, f"{both} fit {module}, with different values")
            return


def _ranks(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    if not config.decomposes:
        return
    for weight in adapted(config, subject):
        if (rank := config.rank_of(weight.module)) > min(weight.shape):
            yield _misfit(
                "init_lora_weights",
                f"{config.init_lora_weights!r} decomposes {weight.module}, whose shape is "
                f"{weight.shape}, into no more than {min(weight.shape)} ranks, and {rank} are "
                "asked for: lower r, give it a rank in rank_pattern, or set init_lora_weights "
                "to true",
            )
            return


def _storage(config: AdapterConfig, subject: Subject) -> Iterator[Misfit]:
    if config.fan_in_fan_out is None or subject.quantized:
        return
    kinds = {weight.kind for weight in adapted(config, subject)} & set(LINEAR)
    if kinds and kinds != {"conv1d" if config.fan_in_fan_out else "linear"}:
        order = "(in, out)" if "conv1d" in kinds else "(out, in)"
        yield _misfit(
            "fan_in_fan_out", f"the model stores its weights as {order}: leave the key out"
        )


def _misfit(key: str, message: str, remedy: str = "") -> Misfit:
    return Misfit(param=f"training.adapter.{key}", message=message, remedy=remedy)


def _unknown(name: str, known: Iterable[Weight], what: str) -> str:
    leaves = _shown(set(map(_leaf, known)))
    return f"the model has no {what} {name!r}; it has {leaves or 'none'}"


def _shown(names: set[str]) -> str:
    ordered = sorted(names - {""})
    more = f" and {len(ordered) - _MOST_SHOWN} more" if len(ordered) > _MOST_SHOWN else ""
    return ", ".join(ordered[:_MOST_SHOWN]) + more
