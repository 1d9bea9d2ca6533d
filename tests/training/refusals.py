"""What a refused configuration says."""

from pydantic import ValidationError

from training.config import TrainingConfig

_SECTIONS = frozenset({"", *TrainingConfig.model_fields, "model.quantization"})


def names_a_key(refusal: ValidationError) -> bool:
    """Whether every complaint is told of a key, not of a whole section."""
    places = (".".join(map(str, error["loc"])) for error in refusal.errors())
    return _SECTIONS.isdisjoint(places)
