"""Opening a checkpoint by what it is: its ``config.json`` names the family, the family knows how to load it.

The families are imported only when one is opened, so :func:`check_model` answers the planner without torch.
"""

from dataclasses import dataclass
from typing import Protocol

from data_contracts.errors import ModelError
from models.checkpoint import (
    ROLES,
    Checkpoint,
    Role,
    Shapes,
    count_parameters,
    digest_of,
    lacking,
    locate,
    pixel_statistics,
    require_tokenizer,
    tensor_shapes,
)
from models.med.config import BLIP, MODEL_TYPE
from models.protocols import FLOAT32, Captioner, Embedder, Inference, Matcher

__all__ = ["ModelFacts", "check_model", "digest_of", "open_captioner", "open_filter"]


@dataclass(frozen=True)
class ModelFacts:
    """What the planner may say about a model. ``where`` names the commit if the model is on the hub."""

    where: str
    model_type: str
    architecture: str
    commit: str | None
    parameters: int


def check_model(where: str, role: Role) -> ModelFacts:
    """Can ``where`` serve as ``role``? Reads the configuration and the weight headers, no weights.

    Raises :class:`ModelError` for a checkpoint that is missing, unsafe, unsupported or made for another role.
    """
    checkpoint = locate(where, weights=False)
    shapes = tensor_shapes(checkpoint)
    _refuse_unless_fit(checkpoint, shapes, role)
    return ModelFacts(
        where=checkpoint.pinned,
        model_type=checkpoint.model_type,
        architecture=checkpoint.architecture,
        commit=checkpoint.commit,
        parameters=count_parameters(shapes),
    )


def open_captioner(
    where: str, device: str = "cpu", batch: int = 16, inference: Inference = FLOAT32
) -> Captioner:
    """The captioner at ``where``, its weights on ``device``; it decodes ``batch`` captions at once."""
    checkpoint = _open(where, "captioner")
    from models.engine.captioner import EngineCaptioner
    from models.med.checkpoint import load

    return EngineCaptioner(
        *load(checkpoint.directory), inference, device, batch, pixel_statistics(checkpoint)
    )


class Filter(Matcher, Embedder, Protocol):
    """What a filter checkpoint can do: judge by ITM, and embed by the ITC encoders in it."""


def open_filter(where: str, device: str = "cpu", batch: int = 16, inference: Inference = FLOAT32) -> Filter:
    """The filter at ``where``, its weights on ``device``; it reads ``batch`` images at once."""
    checkpoint = _open(where, "filter")
    from models.engine.matcher import EngineMatcher
    from models.med.checkpoint import load

    return EngineMatcher(*load(checkpoint.directory), inference, device, batch, pixel_statistics(checkpoint))


def _open(where: str, role: Role) -> Checkpoint:
    checkpoint = locate(where)
    _refuse_unless_fit(checkpoint, tensor_shapes(checkpoint), role)
    return checkpoint


def _refuse_unless_fit(checkpoint: Checkpoint, shapes: Shapes, role: Role) -> None:
    require_tokenizer(checkpoint)
    if checkpoint.model_type == BLIP:
        _require_role(checkpoint, shapes, role)
    elif checkpoint.model_type != MODEL_TYPE:
        raise ModelError(
            what=f"{checkpoint.where} is a model of a family that capfilt does not know",
            evidence=f"model_type {checkpoint.model_type!r} ({checkpoint.architecture}) in its config.json",
            remedy=f"supported: {BLIP!r} (BLIP in the Hugging Face layout), {MODEL_TYPE!r} (models capfilt trained)",
        )


def _require_role(checkpoint: Checkpoint, shapes: Shapes, role: Role) -> None:
    """The weights decide, not ``architectures``: a checkpoint of all three objectives serves both roles."""
    gaps = {other: lacking(shapes, other) for other in ROLES}
    if not gaps[role]:
        return
    missing = ", ".join(need.rstrip(".") for need in gaps[role])
    serves = [other for other, lacks in gaps.items() if not lacks]
    raise ModelError(
        what=f"{checkpoint.where} cannot serve as the {role}"
        + (f": it is a {' and '.join(serves)} checkpoint" if serves else ""),
        evidence=f"it was written as {checkpoint.architecture} and has no {missing}",
        remedy={
            "filter": "give a BlipForImageTextRetrieval checkpoint, such as Salesforce/blip-itm-base-coco",
            "captioner": "give a BlipForConditionalGeneration checkpoint, "
            "such as Salesforce/blip-image-captioning-base",
        }[role],
    )
