"""Human pairs that no training saw."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.records import HumanImage, Split
from capfilt.models.text.normalise import normalise_caption
from capfilt.stages.stage import StageInput

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class HeldOut:
    """Images of a split with their human texts, normalised as the models read them."""

    image_ids: tuple[str, ...]
    images: tuple["Image", ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def owner(self) -> NDArray[np.int64]:
        """The image of every text, texts in order; shape (texts,), int64."""
        return np.repeat(np.arange(len(self.texts)), [len(own) for own in self.texts])

    @property
    def flat(self) -> list[str]:
        return [text for own in self.texts for text in own]


def held_out(
    inputs: StageInput, split: Split, besides: frozenset[str] = frozenset(), most: int | None = None
) -> HeldOut:
    """The split's images, each once; those in ``besides`` (image_ids of the crawl) do not count.

    Of more than ``most`` images those whose ids come first, which are a random draw.
    """
    from capfilt.models.images.decode import decode

    found: dict[str, tuple[str, ...]] = {}
    for part in inputs.parts(HumanImage, ["image_id", "texts", "split"]):
        for row in part.to_pylist():
            texts = tuple(dict.fromkeys(text for text in map(normalise_caption, row["texts"]) if text))
            image = row["image_id"]
            if row["split"] == split and texts and image not in besides:
                found.setdefault(image, texts)
    chosen = found if most is None else dict.fromkeys(sorted(found)[:most])
    images: dict[str, Image] = {}
    for part in inputs.parts(HumanImage, ["image_id", "image"]):
        for image, data in zip(*map(part.column, ("image_id", "image")), strict=True):
            if image.as_py() in chosen and image.as_py() not in images:
                images[image.as_py()] = decode(data.as_py())
    return HeldOut(tuple(images), tuple(images.values()), tuple(found[image] for image in images))
