"""Opening a checkpoint by what it is: its ``config.json`` names the family, the family knows how to load it.

The families are imported only when one is opened, so :func:`check_model` answers the planner without torch.
"""

from dataclasses import dataclass
from typing import Protocol

from data_contracts.errors import ModelError
from models.checkpoint import (
    Checkpoint,
    Role,
    Shapes,
    count_parameters,
    digest_of,
    locate,
    require_tokenizer,
    tensor_shapes,
)
from models.protocols import Captioner, Embedder, Matcher

__all__ = ["ModelFacts", "check_model", "digest_of", "open_captioner", "open_filter"]

BLIP, MED = "blip", "capfilt-med"

# Without these tensors transformers would fill the gap with random numbers and say so in a log line only.
_NEEDED_BY_BLIP: dict[Role, tuple[str, ...]] = {
    "filter": ("itm_head.weight", "vision_proj.weight", "text_proj.weight", "text_encoder.", "vision_model."),
    "captioner": ("text_decoder.cls.predictions.", "text_decoder.bert.", "vision_model."),
}


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


def open_captioner(where: str, device: str = "cpu", batch: int = 16) -> Captioner:
    """The captioner at ``where``, its weights on ``device``; it decodes ``batch`` captions at once."""
    checkpoint = _open(where, "captioner")
    if checkpoint.model_type == MED:
        return _open_med(checkpoint, device, batch)
    from models.blip import BlipCaptioner

    return BlipCaptioner.open(checkpoint, device, batch)


class Filter(Matcher, Embedder, Protocol):
    """What a filter checkpoint can do: judge by ITM, and embed by the ITC encoders in it."""


class _Med(Captioner, Filter, Protocol):
    pass


def open_filter(where: str, device: str = "cpu", batch: int = 16) -> Filter:
    """The filter at ``where``, its weights on ``device``; it reads ``batch`` images or texts at once."""
    checkpoint = _open(where, "filter")
    if checkpoint.model_type == MED:
        return _open_med(checkpoint, device, batch)
    from models.blip import BlipMatcher

    return BlipMatcher.open(checkpoint, device, batch)


def _open_med(checkpoint: Checkpoint, device: str, batch: int) -> _Med:
    from models.med.adapter import open_med

    return open_med(checkpoint.directory, device, batch)


def _open(where: str, role: Role) -> Checkpoint:
    checkpoint = locate(where)
    _refuse_unless_fit(checkpoint, tensor_shapes(checkpoint), role)
    return checkpoint


def _refuse_unless_fit(checkpoint: Checkpoint, shapes: Shapes, role: Role) -> None:
    require_tokenizer(checkpoint)
    if checkpoint.model_type == BLIP:
        _require_role(checkpoint, shapes, role)
    elif checkpoint.model_type != MED:
        raise ModelError(
            what=f"{checkpoint.where} is a model of a family that capfilt does not know",
            evidence=f"model_type {checkpoint.model_type!r} ({checkpoint.architecture}) in its config.json",
            remedy=f"supported: {BLIP!r} (BLIP in the Hugging Face layout), {MED!r} (models capfilt trained)",
        )


def _require_role(checkpoint: Checkpoint, shapes: Shapes, role: Role) -> None:
    """The weights decide, not ``architectures``: a checkpoint of all three objectives serves both roles."""
    lacking = {
        other: [need for need in needs if not any(name.startswith(need) for name in shapes)]
        for other, needs in _NEEDED_BY_BLIP.items()
    }
    if not lacking[role]:
        return
    missing = ", ".join(need.rstrip(".") for need in lacking[role])
    serves = [other for other, lacks in lacking.items() if not lacks]
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
