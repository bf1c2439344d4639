"""The sizes of a MED and its presets. Everything here is saved with the weights."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import ROLES, Role

MODEL_TYPE = "capfilt-med"
BLIP = "blip"


@dataclass(frozen=True)
class MedConfig:
    """Sizes of the image encoder, the text encoder/decoder and the projections, and what else they compute
    with.

    ``stem`` cuts the image into patches: ``patch`` with one strided convolution (ViT and BLIP), ``conv`` with
    a small convolutional network that learns from scratch in minutes. ``stem_widths`` are the channels of the
    halvings before the last, which ends at ``vision_width``; so ``conv`` needs ``patch == 2 ** halvings``.

    Token ids are the tokenizer's: ``dec`` starts a decoder, ``enc`` an image-grounded text; ``enc`` is None
    where a checkpoint has no such token. ``max_tokens`` cuts a text that is judged.

    ``itm_token`` is the first token of a text in the matching head. BLIP was trained with [ENC] (``enc``), and
    so are models trained here. transformers keeps [CLS] (``cls``), which the scores known of released
    checkpoints come from, so a BLIP directory that does not say otherwise is read with it. Scores differ, so a
    threshold holds for one of them only.

    ``roles`` are what its weights can do. With both roles, ``shared`` says whether decoder and encoder share
    all but self-attention, as BLIP trains them; two finetuned halves in one checkpoint do not. ``tied``: the
    LM head's matrix is the word embedding. ``label_smoothing`` is what the checkpoint says of its own
    training; jobs have a setting of their own.
    """

    image_size: int = 224
    patch: int = 16
    stem: Literal["patch", "conv"] = "patch"
    stem_widths: tuple[int, ...] = ()
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_hidden: int = 3072
    vision_eps: float = 1e-6
    vision_act: str = "gelu"
    vision_dropout: float = 0.0
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_hidden: int = 3072
    text_eps: float = 1e-12
    text_act: str = "gelu"
    projection: int = 256
    max_positions: int = 512
    max_tokens: int = 40
    dropout: float = 0.0
    attention_dropout: float = 0.0
    vocabulary: int = 30524
    pad: int = 0
    cls: int = 101
    sep: int = 102
    dec: int = 30522
    enc: int | None = 30523
    itm_token: Literal["cls", "enc"] = "enc"
    label_smoothing: float = 0.1
    tied: bool = True
    shared: bool = True
    roles: tuple[Role, ...] = ROLES

    def __post_init__(self) -> None:
        if self.stem == "conv" and self.patch != 2 ** (len(self.stem_widths) + 1):
            raise ModelError(
                what="a convolutional stem must halve the image down to one cell per patch",
                evidence=f"patch {self.patch} with {len(self.stem_widths) + 1} halvings",
                remedy=f"give {self.patch.bit_length() - 2} stem_widths",
            )
        for name in ("vision", "text"):
            width, heads = getattr(self, f"{name}_width"), getattr(self, f"{name}_heads")
            if width % heads:
                raise ModelError(
                    what=f"{name}_width must be a multiple of {name}_heads",
                    evidence=f"{width} and {heads}",
                    remedy="change one of them",
                )
        self.first("filter")

    def first(self, role: Role) -> int:
        """The token that starts a text with an image: in the matching head, or in the decoder.

        Raises :class:`ModelError` if ``itm_token`` is [ENC] and there is no such token.
        """
        if role == "captioner":
            return self.dec
        if self.itm_token == "cls":
            return self.cls
        if self.enc is None:
            raise ModelError(
                what="the model has no [ENC] token to judge with",
                evidence=f"not in its tokenizer, and its {self.vocabulary} embeddings end with [DEC]",
                remedy="judge with itm_token cls",
            )
        return self.enc

    @property
    def patches(self) -> int:
        """Image tokens without [CLS]."""
        return (self.image_size // self.patch) ** 2

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": MODEL_TYPE, "architectures": ["Med"], **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Raises :class:`ModelError` for keys it does not know."""
        known = {field.name for field in fields(cls)}
        given = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
        if unknown := sorted(given.keys() - known):
            raise ModelError(
                what="config.json has keys that this version of capfilt does not know",
                evidence=", ".join(unknown),
                remedy="open the model with the version that wrote it",
            )
        for name in ("stem_widths", "roles"):
            if name in given:
                given[name] = tuple(given[name])
        return cls(**given)


_BASE = MedConfig()
PRESETS = {
    # learns from scratch on a laptop's CPU in minutes
    "tiny": replace(
        _BASE,
        image_size=64,
        stem="conv",
        stem_widths=(16, 32, 64),
        vision_width=128,
        vision_layers=2,
        vision_heads=4,
        vision_hidden=256,
        text_width=128,
        text_layers=2,
        text_heads=4,
        text_hidden=256,
        projection=128,
        max_positions=64,
        max_tokens=28,
    ),
    # the same, for a GPU or an evening
    "small": replace(
        _BASE,
        image_size=128,
        stem="conv",
        stem_widths=(32, 64, 128),
        vision_width=256,
        vision_layers=6,
        vision_heads=8,
        vision_hidden=1024,
        text_width=256,
        text_layers=6,
        text_heads=8,
        text_hidden=1024,
        max_positions=128,
    ),
    # BLIP's own two sizes (arXiv 2201.12086, section 4.1)
    "base": _BASE,
    "large": replace(_BASE, vision_width=1024, vision_layers=24, vision_heads=16, vision_hidden=4096),
}


def preset(name: str, **changes: Any) -> MedConfig:
    """A preset by name, with fields changed. Raises :class:`ModelError` for an unknown name."""
    if name not in PRESETS:
        raise ModelError(
            what=f"there is no MED preset called {name!r}",
            evidence=f"presets are {', '.join(PRESETS)}",
            remedy="use one of them, or a model directory",
        )
    return replace(PRESETS[name], **changes)
