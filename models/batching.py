"""Many images and texts through a model, so many at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from capfilt.models.protocols import Images, Match

Item = TypeVar("Item")
Seen = TypeVar("Seen")


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def match_in_batches(
    images: Images,
    texts: Sequence[Sequence[str]],
    size: int,
    see: Callable[[Images], Seen],
    judge: Callable[[Seen, list[int], list[str]], Sequence[Match]],
) -> list[list[Match]]:
    """What :class:`~capfilt.models.protocols.Matcher` promises: ``see`` gets each image once, images without texts
    never.

    ``judge`` gets what ``see`` gave for some images, and pairs of a row in it and a text.
    """
    matches: list[list[Match]] = [[] for _ in images]
    for shown in batches([i for i, own in enumerate(texts) if own], size):
        seen = see([images[i] for i in shown])
        pairs = [(row, i, text) for row, i in enumerate(shown) for text in texts[i]]
        for chunk in batches(pairs, size):
            judged = judge(seen, [row for row, _, _ in chunk], [text for _, _, text in chunk])
            for (_, i, _), match in zip(chunk, judged, strict=True):
                matches[i].append(match)
    return matches
