"""The sizes of a MED and its presets. Everything here is saved with the weights."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from data_contracts.errors import ModelError

MODEL_TYPE = "capfilt-med"


@dataclass(frozen=True)
class MedConfig:
    """Sizes of the image encoder, the text encoder/decoder and the projections.

    ``stem`` cuts the image into patches: ``patch`` with one strided convolution (ViT and BLIP), ``conv`` with
    a small convolutional network that learns from scratch in minutes. ``stem_widths`` are the channels of the
    halvings before the last, which ends at ``vision_width``; so ``conv`` needs ``patch == 2 ** halvings``.
    Token ids are fixed by the tokenizer: ``[PAD]`` 0, ``[DEC]`` starts a decoder, ``[ENC]`` an ITM text.
    """

    image_size: int = 224
    patch: int = 16
    stem: Literal["patch", "conv"] = "patch"
    stem_widths: tuple[int, ...] = ()
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_eps: float = 1e-6
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_eps: float = 1e-12
    mlp_ratio: int = 4
    projection: int = 256
    max_positions: int = 512
    max_tokens: int = 40
    dropout: float = 0.0
    vocabulary: int = 30524
    pad: int = 0
    cls: int = 101
    sep: int = 102
    dec: int = 30522
    enc: int = 30523

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
        if "stem_widths" in given:
            given["stem_widths"] = tuple(given["stem_widths"])
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
        text_width=128,
        text_layers=2,
        text_heads=4,
        projection=128,
        mlp_ratio=2,
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
        text_width=256,
        text_layers=6,
        text_heads=8,
        max_positions=128,
    ),
    # BLIP's own two sizes (arXiv 2201.12086, section 4.1)
    "base": _BASE,
    "large": replace(_BASE, vision_width=1024, vision_layers=24, vision_heads=16),
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
