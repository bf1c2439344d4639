"""Human pairs that no training saw, and the mismatched pairs made from them: what a filter is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_contracts.records import HumanPicture, Split
from models.protocols import Embedder, Matcher
from models.text import normalise_caption
from stages.stage import StageInput

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class HeldOut:
    """Images of a split with their human texts, normalised as the models read them."""

    image_ids: tuple[str, ...]
    pictures: tuple["Image", ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def owner(self) -> NDArray[np.int64]:
        """The image of every text, texts in order; shape (texts,), int64."""
        return np.repeat(np.arange(len(self.texts)), [len(own) for own in self.texts])

    @property
    def flat(self) -> list[str]:
        return [text for own in self.texts for text in own]


def held_out(inputs: StageInput, split: Split, besides: frozenset[str] = frozenset()) -> HeldOut:
    """The split's images, each once; those in ``besides`` (image_ids of the crawl) do not count."""
    from models.decode import decode

    found: dict[str, tuple[Image, tuple[str, ...]]] = {}
    for part in inputs.parts(HumanPicture, ["image_id", "image", "texts", "split"]):
        for row in part.to_pylist():
            texts = tuple(text for text in map(normalise_caption, row["texts"]) if text)
            image = row["image_id"]
            if row["split"] == split and texts and image not in besides and image not in found:
                found[image] = (decode(row["image"]), texts)
    return HeldOut(
        tuple(found),
        tuple(picture for picture, _ in found.values()),
        tuple(texts for _, texts in found.values()),
    )


@dataclass(frozen=True)
class Judged:
    """ITM and ITC, one a text: with its own image, a shuffled one, the ITC-hardest other one.

    Shapes (texts,), float64.
    """

    own: NDArray[np.float64]
    shuffled: NDArray[np.float64]
    hard: NDArray[np.float64]
    own_itc: NDArray[np.float64]
    shuffled_itc: NDArray[np.float64]
    similarity: NDArray[np.float32]


def judge(pairs: HeldOut, matcher: Matcher, embedder: Embedder, seed: int) -> Judged:
    """Every text with its own image and with two others: one at random, and the one that ITC finds likest.

    An image that has the same text is never taken for a mismatch.
    """
    texts, owner = pairs.flat, pairs.owner
    similarity = embedder.embed_images(pairs.pictures) @ embedder.embed_texts(texts).T
    says = [frozenset(own) for own in pairs.texts]
    other = np.array([[text not in own for text in texts] for own in says], dtype=bool)
    other[owner, np.arange(len(texts))] = False
    random = np.random.default_rng(seed).random(similarity.shape)
    usable = other.any(0)
    shuffled = np.where(other, random, -1).argmax(0)[usable]
    hard = np.where(other, similarity, -np.inf).argmax(0)[usable]
    wanted: list[list[int]] = [[] for _ in pairs.pictures]
    numbers = np.arange(len(texts))
    images = np.concatenate([owner, shuffled, hard])
    rows = np.concatenate([numbers, numbers[usable], numbers[usable]])
    for image, text in zip(images.tolist(), rows.tolist(), strict=True):
        wanted[image].append(text)
    itm = _match(matcher, pairs, [list(dict.fromkeys(some)) for some in wanted], texts)
    scores = np.array([itm[image, text] for image, text in zip(images.tolist(), rows.tolist(), strict=True)])
    own, random_ones, hard_ones = np.split(scores, np.cumsum([len(owner), len(shuffled)]))
    return Judged(
        own,
        random_ones,
        hard_ones,
        similarity[owner, numbers].astype(np.float64),
        similarity[shuffled, numbers[usable]].astype(np.float64),
        similarity,
    )


def _match(
    matcher: Matcher, pairs: HeldOut, wanted: Sequence[Sequence[int]], texts: Sequence[str]
) -> dict[tuple[int, int], float]:
    matches = matcher.match(pairs.pictures, [[texts[text] for text in some] for some in wanted])
    return {
        (image, text): match.itm
        for image, (some, found) in enumerate(zip(wanted, matches, strict=True))
        for text, match in zip(some, found, strict=True)
    }
