"""Image-text pairs in memory or in a memory map, and the batches drawn from them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_contracts.errors import TrainingError
from models.images import normalise
from models.med.tokenizer import CaptionTokenizer
from models.text import normalise_caption
from models.training.augment import random_resized_crop


@dataclass(frozen=True)
class PairSet:
    """Images with one or more texts each.

    ``images`` (n, size, size, 3), uint8, an array or ``np.memmap``; ``texts[i]`` belong to image i.
    ``scenes`` may name what an image shows: images of one scene are never taken for each other's negatives.
    Raises :class:`TrainingError` if the lengths differ or an image has no text.
    """

    images: NDArray[np.uint8]
    texts: Sequence[Sequence[str]]
    image_ids: Sequence[str]
    scenes: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        lengths = (len(self.images), len(self.texts), len(self.image_ids), len(self.scenes or self.texts))
        if len(set(lengths)) > 1:
            raise TrainingError(
                what="images, texts, ids and scenes differ in number",
                evidence=f"{lengths}",
                remedy="give one entry of each per image",
            )
        if empty := [image for image, texts in zip(self.image_ids, self.texts, strict=True) if not texts]:
            raise TrainingError(
                what="images without a text cannot be trained on",
                evidence=f"{len(empty)}, the first {empty[0]}",
                remedy="leave them out",
            )

    def __len__(self) -> int:
        return len(self.images)


class Batch(NamedTuple):
    """``pixels`` (rows, 3, size, size) float32; ``ids`` (rows, longest) int64; ``keys`` (rows, 3) int64.

    The first ``human`` rows are human pairs.
    """

    pixels: Tensor
    ids: Tensor
    keys: Tensor
    human: int

    def to(self, device: str) -> "Batch":
        return Batch(self.pixels.to(device), self.ids.to(device), self.keys.to(device), self.human)


class _Source:
    """One pair set, its texts tokenized and keyed once, and an endless shuffled order through it."""

    def __init__(
        self,
        pairs: PairSet,
        tokenizer: CaptionTokenizer,
        max_tokens: int,
        prompt: str,
        seed: int,
        numbers: dict[str, int],
    ) -> None:
        self.images, self.counts, self.seed = pairs.images, [len(own) for own in pairs.texts], seed
        self.first = np.cumsum([0, *self.counts])
        texts = [normalise_caption(text) for own in pairs.texts for text in own]
        self.ids = tokenizer.encode([f"{prompt} {text}" if prompt else text for text in texts], max_tokens)
        self.lengths = self.ids.ne(tokenizer.pad).sum(1)

        def number(names: Iterable[str]) -> list[int]:
            return [numbers.setdefault(name, len(numbers)) for name in names]

        images = [f"image {image_id}" for image_id in pairs.image_ids]
        scenes = [f"scene {scene}" for scene in pairs.scenes] or images
        self.image_keys, self.scene_keys = number(images), number(scenes)
        self.text_keys = number(f"text {text}" for text in texts)

    def rows(self, step: int, count: int) -> list[tuple[int, int]]:
        """(image, text) rows of a step; an image's texts take turns."""
        images = shuffled(len(self.images), self.seed, step, count).tolist()
        turn = step * count // len(self.images)
        return [(image, int(self.first[image]) + (turn + image) % self.counts[image]) for image in images]

    def keys(self, image: int, text: int) -> tuple[int, int, int]:
        return self.image_keys[image], self.text_keys[text], self.scene_keys[image]


def shuffled(size: int, seed: int, step: int, count: int) -> NDArray[np.int64]:
    """Step ``step``'s ``count`` places of an endless order: every one of ``size`` once an epoch."""
    places = np.arange(step * count, (step + 1) * count)
    epochs = places // size
    spots = zip(epochs.tolist(), (places % size).tolist(), strict=True)
    return np.array([_order(size, seed, epoch)[place] for epoch, place in spots])


@lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(size)


class Batches:
    """Batches as a pure function of (seed, step), so a restart carries on exactly where it stopped.

    With ``web`` given, ``human_share`` of each batch is human. ``crop`` is the smallest share of the area
    that a crop keeps; 1 means no crop. ``flip`` mirrors at random: leave it off where captions say left or
    right.
    """

    def __init__(
        self,
        human: PairSet,
        web: PairSet | None,
        tokenizer: CaptionTokenizer,
        *,
        size: int,
        max_tokens: int,
        human_share: float,
        crop: float,
        flip: bool,
        seed: int,
        prompt: str = "",
    ) -> None:
        self.crop, self.flip, self.seed = crop, flip, seed
        self.pad = tokenizer.pad
        numbers: dict[str, int] = {}
        self.human = _Source(human, tokenizer, max_tokens, prompt, seed, numbers)
        self.web = None
        if web is not None and len(web) and human_share < 1:
            self.web = _Source(web, tokenizer, max_tokens, prompt, seed + 1, numbers)
        self.humans = max(1, round(size * human_share)) if self.web else size
        self.others = size - self.humans

    def __call__(self, step: int) -> Batch:
        parts = [(self.human, row) for row in self.human.rows(step, self.humans)]
        if self.web:
            parts += [(self.web, row) for row in self.web.rows(step, self.others)]
        pixels = normalise(torch.from_numpy(np.stack([source.images[image] for source, (image, _) in parts])))
        generator = torch.Generator().manual_seed(self.seed + 7919 * step)
        pixels = random_resized_crop(pixels, self.crop, self.flip, generator)
        longest = max(int(source.lengths[text]) for source, (_, text) in parts)
        ids = torch.full((len(parts), longest), self.pad)
        for number, (source, (_, text)) in enumerate(parts):
            own = source.ids[text, :longest]
            ids[number, : len(own)] = own
        keys = torch.tensor([source.keys(*row) for source, row in parts])
        return Batch(pixels, ids, keys, self.humans)


def frequent_words(pairs: PairSet, count: int) -> list[str]:
    """The ``count`` most frequent content words of the texts, ties in alphabetical order.

    A word is letters only, three or more; one in over 40% of the texts says nothing about its image. This
    needs no stop list, hence no language.
    """
    texts = [set(normalise_caption(text).split()) for own in pairs.texts for text in own]
    counts = Counter(word for words in texts for word in words if len(word) > 2 and word.isalpha())
    telling = [(word, times) for word, times in counts.items() if times <= 0.4 * len(texts)]
    return [word for word, _ in sorted(telling, key=lambda item: (-item[1], item[0]))[:count]]


def word_targets(pairs: PairSet, words: Sequence[str]) -> Tensor:
    """(images, words) float32: the share of each word among the listed words of an image's texts; may be
    0."""
    column = {word: number for number, word in enumerate(words)}
    targets = torch.zeros(len(pairs), len(words))
    for row, own in enumerate(pairs.texts):
        for text in own:
            for word in normalise_caption(text).split():
                if word in column:
                    targets[row, column[word]] += 1
    return targets / targets.sum(1, keepdim=True).clamp_min(1.0)
