"""Opening a checkpoint by what it is: its ``config.json`` names the family, the family knows how to load it.

The families are imported only when one is opened, so :func:`check_model` answers the planner without torch.
"""

from dataclasses import dataclass
from typing import Protocol

from capfilt.data_contracts.errors import UsageError
from capfilt.models.checkpoint import (
    Checkpoint,
    Role,
    Shapes,
    count_parameters,
    digest_of,
    locate,
    pixel_statistics,
    require_tokenizer,
    tensor_shapes,
)
from capfilt.models.families import family_of, require_role
from capfilt.models.protocols import FLOAT32, Captioner, Embedder, Inference, Matcher

__all__ = ["ModelFacts", "check_model", "digest_of", "open_captioner", "open_filter"]

# What the engine computes with MED's own modules; whatever else there is goes through transformers, in float32.
ENGINE = ("blip", "capfilt-med")


@dataclass(frozen=True)
class ModelFacts:
    """What the planner may say about a model. ``where`` names the commit if the model is on the hub.

    ``prompt`` and ``probability`` are those of its :class:`~capfilt.models.families.Family`.
    """

    where: str
    model_type: str
    architecture: str
    commit: str | None
    parameters: int
    prompt: str
    probability: bool


def check_model(where: str, role: Role) -> ModelFacts:
    """Can ``where`` serve as ``role``? Reads the configuration and the weight headers, no weights.

    Raises :class:`ModelError` for a checkpoint that is missing, unsafe, unsupported or made for another role.
    """
    checkpoint = locate(where, weights=False)
    shapes = tensor_shapes(checkpoint)
    _refuse_unless_fit(checkpoint, shapes, role)
    family = family_of(checkpoint)
    return ModelFacts(
        where=checkpoint.pinned,
        model_type=checkpoint.model_type,
        architecture=checkpoint.architecture,
        commit=checkpoint.commit,
        parameters=count_parameters(shapes),
        prompt=family.prompt,
        probability=family.probability,
    )


def open_captioner(
    where: str, device: str = "cpu", batch: int = 16, inference: Inference = FLOAT32
) -> Captioner:
    """The captioner at ``where``, its weights on ``device``; it decodes ``batch`` captions at once."""
    checkpoint = _open(where, "captioner", device)
    if checkpoint.model_type not in ENGINE:
        from capfilt.models.adapters.image_to_text import ImageToText

        return ImageToText.open(checkpoint, device, batch)
    from capfilt.models.engine.captioner import EngineCaptioner
    from capfilt.models.med.checkpoint import load

    return EngineCaptioner(
        *load(checkpoint.directory), inference, device, batch, pixel_statistics(checkpoint)
    )


class Filter(Matcher, Embedder, Protocol):
    """What a filter checkpoint can do: judge by ITM, and embed by the ITC encoders in it."""


def open_filter(where: str, device: str = "cpu", batch: int = 16, inference: Inference = FLOAT32) -> Filter:
    """The filter at ``where``, its weights on ``device``; it reads ``batch`` images at once."""
    checkpoint = _open(where, "filter", device)
    if checkpoint.model_type == "blip-2":
        from capfilt.models.adapters.blip2 import Blip2Matcher

        return Blip2Matcher.open(checkpoint, device, batch)
    if checkpoint.model_type not in ENGINE:
        from capfilt.models.adapters.dual_encoder import DualEncoder

        return DualEncoder.open(checkpoint, device, batch)
    from capfilt.models.engine.matcher import EngineMatcher
    from capfilt.models.med.checkpoint import load

    return EngineMatcher(*load(checkpoint.directory), inference, device, batch, pixel_statistics(checkpoint))


def _open(where: str, role: Role, device: str) -> Checkpoint:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            what=f"models cannot compute on {device!r} here",
            evidence=str(error).splitlines()[0],
            remedy="use cpu, or see to the driver and to PyTorch's build",
        ) from error
    checkpoint = locate(where)
    _refuse_unless_fit(checkpoint, tensor_shapes(checkpoint), role)
    return checkpoint


def _refuse_unless_fit(checkpoint: Checkpoint, shapes: Shapes, role: Role) -> None:
    require_tokenizer(checkpoint)
    require_role(checkpoint, shapes, role)
