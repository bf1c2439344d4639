"""Batches of image-text pairs, as a pure function of a step's number: a restart goes on exactly where it stopped.

Why not mosaicml-streaming or litdata: both read copies of the data in formats of their own, the first wants
transformers 4 and numpy below 2.2, and both depend on torchvision, which pip replaces a CPU build of torch for.
"""

import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.images.prepare import normalise
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.text.edits import EditKind, Edits
from capfilt.models.text.normalise import normalise_caption
from capfilt.models.training.augment import Crop, randaugment
from capfilt.models.training.distributed import ALONE, WorkerGroup
from capfilt.models.training.pairs import Pairs, Shard
from capfilt.models.training.settings import LoopSettings
from capfilt.models.training.shard_order import Order, Position


class PairSource(NamedTuple):
    """A set of pairs and its weight: the share of a batch that comes from it."""

    pairs: Pairs
    weight: float


class Batch(NamedTuple):
    """One worker's rows of a batch: ``pixels`` (rows, 3, size, size) float32; ``ids`` (rows, longest) int64;
    ``keys`` (rows, 2) int64, of the image and of the text.

    The first ``human`` rows of the whole batch, over all workers, are of the first source. ``edited`` (kinds, rows,
    longest) are the texts with something made false, where ``changed`` (kinds, rows) bool says so; no kinds
    without edits. ``texts`` are the rows' own.
    """

    pixels: Tensor
    ids: Tensor
    keys: Tensor
    human: int
    edited: Tensor
    changed: Tensor
    texts: list[str]

    def to(self, device: str) -> "Batch":
        moved = (part.to(device) if isinstance(part, Tensor) else part for part in self)
        return Batch(*moved)  # type: ignore[arg-type]  # each part goes to its own place


class _Reader:
    """A source's order, and the shards of it that are open."""

    def __init__(self, pairs: Pairs, window: int, seed: int) -> None:
        self.pairs, self.order = pairs, Order.of(pairs.counts, window, seed)
        self._open: dict[int, Shard] = {}

    def places(self, step: int, count: int) -> list[Position]:
        return self.order.places(step * count, count)

    def settle(self, places: Sequence[Position]) -> None:
        """Close the shards that are not of these places' groups."""
        near = frozenset[int]().union(*(self.order.beside(place) for place in places))
        self._open = {number: shard for number, shard in self._open.items() if number in near}

    def shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = self.pairs.shard(number)
        return self._open[number]


class _Row(NamedTuple):
    pixels: NDArray[np.uint8]
    image_id: str
    text: str
    own: Sequence[str]


class Batches:
    """``batch`` rows a step, weighed by source; with several workers each gets its slice of the same batch.

    While a batch is trained on, a thread reads and decodes the next. ``edits`` makes false texts of true ones.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        tokenizer: CaptionTokenizer,
        settings: LoopSettings,
        *,
        max_tokens: int,
        prompt: str = "",
        edits: Edits | None = None,
        world: WorkerGroup = ALONE,
    ) -> None:
        self.settings, self.tokenizer, self.world, self.edits = settings, tokenizer, world, edits
        self.prompt, self.max_tokens, self.pad = prompt, max_tokens, tokenizer.pad
        self.size = settings.rows
        if self.size % world.size or self.size < world.size:
            raise TrainingError(
                what="a batch cannot be shared out evenly",
                evidence=f"{self.size} pairs a step, {world.size} workers",
                remedy="make batch, divided by accumulate, a multiple of the number of workers",
            )
        self._readers = [
            _Reader(source.pairs, settings.window, settings.seed + number)
            for number, source in enumerate(sources)
        ]
        self.shares = shares([source.weight for source in sources], self.size)
        self._ahead: tuple[int, Future[list[_Row]]] | None = None
        self._thread = ThreadPoolExecutor(1, "batches")

    def __call__(self, number: int) -> Batch:
        """Batch ``number``, on the CPU."""
        rows = self._rows(number)
        size = len(rows)
        first = self.world.rank * size
        pixels = normalise(torch.from_numpy(np.stack([row.pixels for row in rows])))
        crop = Crop.draw(self.size, self.settings, number)
        pixels = crop.rows(first, size)(pixels)
        ids = self._encode([row.text for row in rows])
        edited, changed = ids[:0, None], torch.zeros(0, size, dtype=torch.bool)
        if self.edits is not None:
            false = self._falsify(self.edits, rows, number)
            changed = torch.tensor([text is not None for text in false]).view(-1, size)
            own = itertools.cycle(rows)
            edited = self._encode([text or row.text for text, row in zip(false, own, strict=False)])
            edited = edited.view(*changed.shape, -1)
        keys = torch.tensor([(key(f"image {row.image_id}"), key(f"text {row.text}")) for row in rows])
        texts = [row.text for row in rows]
        return Batch(pixels, ids, keys, self.shares[0], edited, changed, texts)

    def _rows(self, number: int) -> list[_Row]:
        """This worker's rows of a batch; the next batch's are on their way."""
        ahead, self._ahead = self._ahead, None
        rows = ahead[1].result() if ahead and ahead[0] == number else self._read(number)
        self._ahead = (number + 1, self._thread.submit(self._read, number + 1))
        return rows

    def _read(self, number: int) -> list[_Row]:
        wanted: list[tuple[_Reader, Position]] = []
        for reader, count in zip(self._readers, self.shares, strict=True):
            places = reader.places(number, count)
            reader.settle(places)
            wanted += [(reader, place) for place in places]
        size = self.size // self.world.size
        first = self.world.rank * size
        rows = []
        for at, (reader, place) in enumerate(wanted[first : first + size], first):
            shard = reader.shard(place.shard)
            own = shard.texts[place.row]
            text = normalise_caption(own[(place.epoch + place.row) % len(own)])
            pixels = shard.pixels(place.row)
            if self.settings.randaugment:
                pixels = randaugment(pixels, self.settings.randaugment, Random(f"{self._seed(number)} {at}"))
            rows.append(_Row(pixels, shard.image_ids[place.row], text, own))
        return rows

    def _seed(self, number: int) -> int:
        return self.settings.seed + 7919 * number

    def _falsify(self, edits: Edits, rows: Sequence[_Row], number: int) -> list[str | None]:
        """Every row's text made false in one way, then in the next; ``None`` where a rule finds nothing."""
        first = self.world.rank * len(rows)
        true = [{normalise_caption(text) for text in row.own} for row in rows]
        return [
            edits.edit(row.text, kind, Random(f"{kind} {self._seed(number)} {at}"), true[at - first])
            for kind in EditKind
            for at, row in enumerate(rows, first)
        ]

    def _encode(self, texts: Sequence[str]) -> Tensor:
        """(rows, longest over all workers), int64."""
        led = [f"{self.prompt} {text}" if self.prompt else text for text in texts]
        ids = self.tokenizer.encode(led, self.max_tokens)
        own = int(ids.ne(self.pad).sum(1).max())
        longest = self.world.most(own)
        trimmed = torch.full((len(ids), longest), self.pad)
        trimmed[:, :own] = ids[:, :own]
        return trimmed


@lru_cache(maxsize=1 << 16)
def key(name: str) -> int:
    """63 bits of sha256: the same on every worker and in every attempt."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def shares(weights: Sequence[float], size: int) -> list[int]:
    """``size`` rows shared out by weight, largest remainders first; whoever has a weight gets one row at least."""
    exact = [weight / sum(weights) * size for weight in weights]
    counts = [max(1, int(part)) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda at: counts[at] - exact[at])
    for at in by_remainder[: max(0, size - sum(counts))]:
        counts[at] += 1
    while sum(counts) > size:
        counts[counts.index(max(counts))] -= 1
    return counts
