"""Committed images as pairs to train on: read shard by shard, decoded once while there is room to keep them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from capfilt.data_contracts.errors import TrainingError
from capfilt.data_contracts.records import HumanImage, Record, Split
from capfilt.models.text.normalise import normalise_caption
from capfilt.stages.stage import Site, StageInput

Trust = Callable[[str, Sequence[str]], Sequence[str]]
KEPT = 16 * 2**30  # bytes of decoded pixels, on the worker's disk


@dataclass(frozen=True)
class _Rows:
    """The rows of one part that can be trained on, with their texts; ``first`` counts the images before them."""

    part: str
    rows: NDArray[np.int64]
    image_ids: pa.StringArray
    texts: pa.ListArray
    first: int


class CommittedPairs:
    """The images of a record's parts that have a usable text (:class:`~capfilt.models.training.pairs.Pairs`).

    Pixels (size, size, 3), uint8, go to a file of the attempt's own when they are first decoded: memory does not
    grow with the set, and no image is decoded twice unless all would take more than ``KEPT`` bytes. ``split``
    keeps that of the human images; ``trusted`` says which of an image's texts count, by its image_id.

    Raises :class:`TrainingError` when nothing is left.
    """

    def __init__(
        self,
        inputs: StageInput,
        record: type[Record],
        size: int,
        site: Site,
        split: Split | None = None,
        trusted: Trust | None = None,
    ) -> None:
        self._inputs, self._record, self._size = inputs, record, size
        self._shards = list(self._select(split, trusted))
        if not self._shards:
            raise TrainingError(
                what="there is nothing to train on",
                evidence=f"no {record.__name__} with a text" + (f" in split {split}" if split else ""),
                remedy="look at the rows of `human` and the rows of `ingest`",
            )
        self._path = site.scratch / f"{record.__name__}-{split or 'all'}.pixels"

    def _select(self, split: Split | None, trusted: Trust | None) -> Iterator[_Rows]:
        columns = ["image_id", "texts", *(["split"] if split else [])]
        first = 0
        for part in self._inputs.names(self._record):
            table = self._inputs.part(self._record, part, columns)
            rows, ids, texts = [], [], []
            for number, row in enumerate(table.to_pylist()):
                own = trusted(row["image_id"], row["texts"]) if trusted else row["texts"]
                usable = [text for text in own if normalise_caption(text)]
                if usable and row.get("split") == split:
                    rows.append(number)
                    ids.append(row["image_id"])
                    texts.append(usable)
            if rows:
                yield _Rows(
                    part, np.array(rows), pa.array(ids), pa.array(texts, pa.list_(pa.string())), first
                )
                first += len(rows)

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> Sequence[int]:
        return [len(shard.rows) for shard in self._shards]

    def texts(self) -> Iterator[Sequence[str]]:
        for shard in self._shards:
            yield from shard.texts.to_pylist()

    def shard(self, number: int) -> "_Shard":
        return _Shard(self, self._shards[number])

    @cached_property
    def pixels(self) -> "_Pixels | None":
        """Where decoded pixels are kept, if there is room for all."""
        bytes_ = len(self) * self._size**2 * 3
        return _Pixels.make(self._path, len(self), self._size) if bytes_ <= KEPT else None

    def images(self, rows: _Rows) -> pa.ChunkedArray:
        """The bytes of a part's usable rows."""
        return self._inputs.part(self._record, rows.part, ["image"])["image"].take(pa.array(rows.rows))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        from capfilt.models.images.decode import decode
        from capfilt.models.images.prepare import square

        return square(decode(data), self._size)


@dataclass(frozen=True)
class _Pixels:
    """Pixels (images, size, size, 3) in a sparse file, and which of them are there."""

    values: NDArray[np.uint8]
    there: NDArray[np.bool_]

    @classmethod
    def make(cls, path: Path, images: int, size: int) -> "_Pixels":
        values = np.memmap(path, dtype=np.uint8, mode="w+", shape=(images, size, size, 3))
        return cls(values, np.zeros(images, dtype=bool))


class _Shard:
    """One part, open. Its images are read when the first one is asked for that is not kept."""

    def __init__(self, pairs: CommittedPairs, rows: _Rows) -> None:
        self._pairs, self._rows = pairs, rows

    @cached_property
    def texts(self) -> list[list[str]]:
        own: list[list[str]] = self._rows.texts.to_pylist()
        return own

    @cached_property
    def _images(self) -> pa.ChunkedArray:
        return self._pairs.images(self._rows)

    @cached_property
    def image_ids(self) -> list[str]:
        ids: list[str] = self._rows.image_ids.to_pylist()
        return ids

    def pixels(self, row: int) -> NDArray[np.uint8]:
        kept, place = self._pairs.pixels, self._rows.first + row
        if kept is not None and kept.there[place]:
            pixels: NDArray[np.uint8] = kept.values[place]
            return pixels
        pixels = self._pairs.decode(self._images[row].as_py())
        if kept is not None:
            kept.values[place] = pixels
            kept.there[place] = True
            first = self._rows.first
            if kept.there[first : first + len(self._rows.rows)].all():
                del self._images  # nobody will ask for the bytes again
        return pixels


def human_pairs(inputs: StageInput, size: int, site: Site) -> CommittedPairs:
    """The human images of the train split."""
    return CommittedPairs(inputs, HumanImage, size, site, Split.TRAIN)


def held_out_pairs(inputs: StageInput, size: int, site: Site) -> CommittedPairs | None:
    """The human pairs of the calibrate split; ``None`` when it is empty."""
    try:
        return CommittedPairs(inputs, HumanImage, size, site, Split.CALIBRATE)
    except TrainingError:
        return None
