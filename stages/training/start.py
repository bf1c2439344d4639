"""What a training starts from."""

from dataclasses import dataclass

from capfilt.stages.stage import ModelRef


@dataclass(frozen=True)
class Fresh:
    """A model with random weights: a preset, a tokenizer, a seed."""

    preset: str
    tokenizer: ModelRef
    seed: int


@dataclass(frozen=True)
class Parents:
    """A plain ViT and a plain BERT that a model inherits from; what they have not is drawn from ``seed``."""

    vision: ModelRef
    text: ModelRef
    seed: int


Start = Fresh | Parents | ModelRef
