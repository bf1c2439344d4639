"""The kinds of checkpoint that capfilt can open: which weights each role needs, and what to expect of it.

Nothing here imports torch or transformers unless a checkpoint is of a kind that is not in the table: then
transformers is asked whether it knows it as an image-to-text model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import BLIP_NEEDS, Checkpoint, Role, Shapes

EXAMPLES: Mapping[Role, str] = {
    "filter": "Salesforce/blip-itm-base-coco or google/siglip2-base-patch16-256",
    "captioner": "Salesforce/blip-image-captioning-base or Salesforce/blip2-opt-2.7b",
}


@dataclass(frozen=True)
class Family:
    """What the checkpoints of a ``model_type`` can do.

    ``needs``: by role, the beginnings of tensor names without which transformers would fill a gap with random
    numbers and say so in a log line only. ``prompt``: what captions are written after unless the recipe says
    otherwise. ``probability``: whether its matcher gives one; if not, its ITM figure only ranks.
    """

    needs: Mapping[Role, tuple[str, ...]]
    prompt: str = ""
    probability: bool = True


# `siglip` are SigLIP 2's checkpoints of one size as well; those of the first SigLIP need sentencepiece installed.
_SIGLIP = Family({"filter": ("text_model.", "vision_model.", "logit_scale", "logit_bias")})

FAMILIES: Mapping[str, Family] = {
    "capfilt-med": Family({"filter": (), "captioner": ()}, prompt="a picture of"),
    "blip": Family(BLIP_NEEDS, prompt="a picture of"),
    "blip-2": Family(
        {
            "filter": (
                *("itm_head.weight", "vision_projection.weight", "text_projection.weight"),
                *("embeddings.", "qformer.", "vision_model."),
            ),
            "captioner": ("language_model.", "language_projection.", "qformer.", "vision_model."),
        },
        prompt="a photo of",
    ),
    "clip": Family(
        {"filter": ("text_model.", "vision_model.", "text_projection.", "visual_projection.", "logit_scale")},
        probability=False,
    ),
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP,
    "git": Family({"captioner": ("git.image_encoder.", "git.encoder.")}),
    "vision-encoder-decoder": Family({"captioner": ("encoder.", "decoder.")}),
}

# Any other image-to-text model of transformers, such as LLaVA or SmolVLM; most of them answer to a chat.
OTHER = Family({"captioner": ()}, prompt="Describe this image in one short sentence.")


def family_of(checkpoint: Checkpoint) -> Family:
    """Raises :class:`ModelError` for a kind that neither the table nor transformers knows to caption with."""
    if known := FAMILIES.get(checkpoint.model_type):
        return known
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if checkpoint.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return OTHER
    raise ModelError(
        what=f"{checkpoint.where} is a model of a family that capfilt does not know",
        evidence=f"model_type {checkpoint.model_type!r} ({checkpoint.architecture}) in its config.json",
        remedy=f"supported: {', '.join(map(repr, FAMILIES))}, and as captioner any other image-to-text model "
        "of transformers",
    )


def require_role(checkpoint: Checkpoint, shapes: Shapes, role: Role) -> None:
    """:class:`ModelError` for an unknown family, or unless the weights for ``role`` are there.

    The weights decide, not ``architectures``: a checkpoint of all three objectives serves both roles.
    """
    lacking = {
        other: [need for need in needs if not any(name.startswith(need) for name in shapes)]
        for other, needs in family_of(checkpoint).needs.items()
    }
    if role in lacking and not lacking[role]:
        return
    missing = ", ".join(need.rstrip(".") for need in lacking.get(role, ())) or f"part that a {role} needs"
    serves = [other for other, lacks in lacking.items() if not lacks]
    raise ModelError(
        what=f"{checkpoint.where} cannot serve as the {role}"
        + (f": it is a {' and '.join(serves)} checkpoint" if serves else ""),
        evidence=f"it was written as {checkpoint.architecture} and has no {missing}",
        remedy=f"give a checkpoint such as {EXAMPLES[role]}",
    )
