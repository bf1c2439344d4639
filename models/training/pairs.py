"""Image-text pairs to train on: in memory here, or read from shards by whoever has them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.text.normalise import content_words, normalise_caption


class Shard(Protocol):
    """The pairs of one shard: ``texts[row]`` belong to the image ``image_ids[row]``."""

    @property
    def image_ids(self) -> Sequence[str]: ...

    @property
    def texts(self) -> Sequence[Sequence[str]]: ...

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """(size, size, 3), uint8, at the model's size."""
        ...


class Pairs(Protocol):
    """Images with one or more texts each, in shards."""

    @property
    def counts(self) -> Sequence[int]:
        """The images of every shard."""
        ...

    def shard(self, number: int) -> Shard: ...

    def texts(self) -> Iterator[Sequence[str]]:
        """The texts of every image, without reading an image."""
        ...


@dataclass(frozen=True)
class PairSet:
    """One shard in memory: ``images`` (n, size, size, 3), uint8; ``own[i]`` are the texts of image i.

    Raises :class:`TrainingError` if the lengths differ or an image has no text.
    """

    images: NDArray[np.uint8]
    own: Sequence[Sequence[str]]
    image_ids: Sequence[str]

    def __post_init__(self) -> None:
        lengths = (len(self.images), len(self.own), len(self.image_ids))
        if len(set(lengths)) > 1:
            raise TrainingError(
                what="images, texts and ids differ in number",
                evidence=f"{lengths}",
                remedy="give one entry of each per image",
            )
        if empty := [image for image, texts in zip(self.image_ids, self.own, strict=True) if not texts]:
            raise TrainingError(
                what="images without a text cannot be trained on",
                evidence=f"{len(empty)}, the first {empty[0]}",
                remedy="leave them out",
            )

    @property
    def counts(self) -> Sequence[int]:
        return (len(self.images),)

    def shard(self, number: int) -> "_Only":
        return _Only(self)

    def texts(self) -> Iterator[Sequence[str]]:
        return iter(self.own)


@dataclass(frozen=True)
class _Only:
    """A pair set as its only shard."""

    pairs: PairSet

    @property
    def image_ids(self) -> Sequence[str]:
        return self.pairs.image_ids

    @property
    def texts(self) -> Sequence[Sequence[str]]:
        return self.pairs.own

    def pixels(self, row: int) -> NDArray[np.uint8]:
        own: NDArray[np.uint8] = self.pairs.images[row]
        return own


def frequent_words(texts: Iterable[Sequence[str]], count: int) -> list[str]:
    """The ``count`` most frequent content words of the texts of images, ties in alphabetical order.

    A word in over 40% of the texts says nothing about its image. This needs no stop list, hence no language.
    """
    every = [content_words(text) for own in texts for text in own]
    counts = Counter(word for words in every for word in words)
    telling = [(word, times) for word, times in counts.items() if times <= 0.4 * len(every)]
    return [word for word, _ in sorted(telling, key=lambda item: (-item[1], item[0]))[:count]]


def demand_variety(human: Pairs) -> None:
    """Raises :class:`TrainingError` when one text stands under half of the images or more: nothing tells them
    apart."""
    counts: Counter[str] = Counter()
    images = 0
    for own in human.texts():
        images += 1
        counts.update({normalise_caption(text) for text in own})
    ((text, times),) = counts.most_common(1)
    if images > 1 and 2 * times >= images:
        raise TrainingError(
            what="the human captions say the same of most images",
            evidence=f"{times} of {images} images have the caption {text!r}",
            remedy="bring captions that tell images apart; look at the rows of `human`",
        )
