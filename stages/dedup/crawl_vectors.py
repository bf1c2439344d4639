"""The crawl's vectors on disk, and what tells its rows apart in memory, in the order of the keeper rule."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from capfilt.data_contracts.contract import matrix
from capfilt.data_contracts.errors import ContractError, StageError
from capfilt.data_contracts.records import Embedding, HeldOutImage
from capfilt.models.images.perceptual_hash import bits
from capfilt.stages.dedup.neighbours import Flat, Pairs, require_faiss
from capfilt.stages.stage import StageInput

PER_ROW = 300  # bytes of memory a row takes besides its vector: ids, hash, orders, lists, and what sorting them takes
COLUMNS = ("row_id", "image_id", "pixels", "hash", "itc", "image")
_BLOCK = 1 << 16


class Compared(NamedTuple):
    """Of pairs of images: the cosine, how many bits of the hashes differ, and whether both hashes say anything."""

    cosine: NDArray[np.float64]
    differ: NDArray[np.int64]
    told: NDArray[np.bool_]


@dataclass(frozen=True)
class CrawlVectors:
    """All rows of the crawl in the order of the keeper rule, and its distinct images in that of their first rows.

    By row: ``row_ids``, ``image_of_row``. By image: ``first_row``, ``image_ids``, ``hashes`` (n, 32), and where its
    vector is in ``file``, float16. ``held`` is about how many bytes all that takes.
    """

    row_ids: NDArray[np.bytes_]
    image_of_row: NDArray[np.int64]
    first_row: NDArray[np.int64]
    image_ids: NDArray[np.bytes_]
    hashes: NDArray[np.uint8]
    file: NDArray[np.float16]
    place: NDArray[np.int64]
    names: tuple[str, ...]
    ends: NDArray[np.int64]
    position: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.row_ids)

    @property
    def images(self) -> int:
        return len(self.image_ids)

    @property
    def dim(self) -> int:
        return int(self.file.shape[1])

    @property
    def held(self) -> int:
        return self.rows * PER_ROW

    @classmethod
    def read(cls, inputs: StageInput, scratch: Path, memory: int) -> "CrawlVectors":
        """Everything that was embedded; the vectors go to a file in ``scratch``.

        Raises:
            ContractError: vectors of different lengths.
            StageError: nothing was embedded, or more rows than ``memory`` bytes allow.
        """
        names: list[str] = []
        ends = [0]
        row_ids, image_ids, pixels, itc, hashes = [], [], [], [], []
        dim = 0
        with (scratch / "vectors.f16").open("wb") as file:
            for shard in inputs.names(Embedding):
                part = inputs.part(Embedding, shard, COLUMNS)
                names.append(shard)
                ends.append(ends[-1] + len(part))
                if not len(part):
                    continue
                found = matrix(part["image"])
                dim = dim or found.shape[1]
                if found.shape[1] != dim:
                    raise ContractError(
                        what="the crawl was embedded in vectors of different lengths",
                        evidence=f"{found.shape[1]} components in shard {shard}, {dim} before it",
                        remedy="all shards have to be embedded by one model: verify the run, then resume it",
                    )
                if ends[-1] * PER_ROW > memory:
                    raise StageError(
                        what="the crawl is too large for the memory that deduplication may use",
                        evidence=f"more than {ends[-2]:,} rows, at about {PER_ROW} bytes each beside their vectors, "
                        f"and DedupSettings.memory is {memory / 1e9:g} GB",
                        remedy="raise DedupSettings.memory, to 16GB say; it changes no result",
                    )
                file.write(found.tobytes())
                row_ids.append(unhex(part["row_id"]))
                image_ids.append(unhex(part["image_id"]))
                hashes.append(unhex(part["hash"]))
                pixels.append(part["pixels"].to_numpy())
                itc.append(part["itc"].to_numpy(zero_copy_only=False).astype(np.float64))
        if not row_ids:
            raise StageError(
                what="there is nothing to deduplicate",
                evidence="no image was embedded",
                remedy="see why, in the rejects of `ingest`",
            )
        rows = np.concatenate(row_ids)
        order = np.lexsort(
            (rows, -np.nan_to_num(np.concatenate(itc), nan=-2.0), -np.concatenate(pixels).astype(np.int64))
        )
        images, first, of_row = np.unique(
            np.concatenate(image_ids)[order], return_index=True, return_inverse=True
        )
        by_first = np.argsort(first)
        rank = np.empty_like(by_first)
        rank[by_first] = np.arange(len(by_first))
        first_row = first[by_first]
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        all_hashes = np.concatenate(hashes)[order[first_row]]
        return cls(
            row_ids=rows[order],
            image_of_row=rank[of_row.reshape(-1)],
            first_row=first_row,
            image_ids=images[by_first],
            hashes=all_hashes.view(np.uint8).reshape(len(all_hashes), -1),
            file=np.memmap(scratch / "vectors.f16", np.float16, "r", shape=(len(rows), dim)),
            place=order[first_row],
            names=tuple(names),
            ends=np.array(ends),
            position=position,
        )

    def shards(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each shard's name and the numbers of its rows, in the shard's own order."""
        for number, name in enumerate(self.names):
            yield name, self.position[self.ends[number] : self.ends[number + 1]]

    def halves(self, images: NDArray[np.int64] | slice) -> NDArray[np.float16]:
        """The images' vectors as they were written."""
        found: NDArray[np.float16] = self.file[self.place[images]]
        return found

    def vectors(self, images: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """The images' vectors, float32, L2-normalised."""
        return normalised(self.halves(images))

    def compare(
        self, images: NDArray[np.int64], others: NDArray[np.float16], hashes: NDArray[np.uint8]
    ) -> "Compared":
        """Each image with its other: in float64, the same whatever is beside."""
        cosine = np.empty(len(images), np.float64)
        for start in range(0, len(images), _BLOCK):
            part = slice(start, start + _BLOCK)
            one, other = self.halves(images[part]).astype(np.float64), others[part].astype(np.float64)
            norms = np.sqrt((one * one).sum(1) * (other * other).sum(1))
            cosine[part] = (one * other).sum(1) / norms
        own = self.hashes[images]
        told: NDArray[np.bool_] = np.logical_and(own.any(axis=1), hashes.any(axis=1))
        return Compared(cosine, bits(own, hashes), told)

    def sample(self) -> NDArray[np.int64]:
        """All images in the order of their ids, which come from their bytes: the first ones are a fair draw."""
        return np.argsort(self.image_ids, kind="stable")


@dataclass(frozen=True)
class HeldOutVectors:
    """Images that are held out, in the order of their ids."""

    names: tuple[str, ...]
    image_ids: NDArray[np.bytes_]
    hashes: NDArray[np.uint8]
    vectors: NDArray[np.float16]

    @classmethod
    def read(cls, inputs: StageInput, dim: int) -> "HeldOutVectors":
        """Raises :class:`ContractError` when their vectors are not as long as the crawl's."""
        parts = list(inputs.parts(HeldOutImage)) if inputs.has(HeldOutImage) else []
        table = pa.concat_tables(parts) if parts else None
        if table is None or not len(table):
            return cls((), np.empty(0, "S32"), np.empty((0, 32), np.uint8), np.empty((0, dim), np.float16))
        table = table.sort_by([("image_id", "ascending"), ("name", "ascending")])
        found = matrix(table["image"])
        if found.shape[1] != dim:
            raise ContractError(
                what="held-out images were embedded by another model than the crawl",
                evidence=f"their vectors have {found.shape[1]} components, the crawl's {dim}",
                remedy="both stages belong to one recipe: fork the run, which embeds them again",
            )
        hashes = unhex(table["hash"]).view(np.uint8).reshape(len(table), -1)
        return cls(tuple(table["name"].to_pylist()), unhex(table["image_id"]), hashes, found)

    def near(self, crawl: CrawlVectors, flat: Flat, similarity: float, most: int) -> Iterator[Pairs]:
        """Pairs (image of the crawl, held-out image) that may be alike: by bytes, by hash, by embedding."""
        if not self.names:
            return
        for image in np.flatnonzero(np.isin(crawl.image_ids, self.image_ids)):
            others = np.flatnonzero(self.image_ids == crawl.image_ids[image])
            yield np.full(len(others), image), others
        index = require_faiss().IndexBinaryFlat(self.hashes.shape[1] * 8)
        index.add(np.ascontiguousarray(self.hashes))
        base = normalised(self.vectors)
        step = flat.block(len(base), crawl.dim)
        for start in range(0, crawl.images, step):
            some = slice(start, min(start + step, crawl.images))
            limits, _, found = index.range_search(np.ascontiguousarray(crawl.hashes[some]), most + 1)
            yield start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))), found
            for rows, others in flat.hits(crawl.vectors(some), base, similarity):
                yield start + rows, others


def normalised(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """float32, L2-normalised: what was rounded to float16 is a little longer or shorter than 1."""
    found = halves.astype(np.float32)
    found /= np.sqrt(np.einsum("ij,ij->i", found, found))[:, None]
    return found


def unhex(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Ids of equal length, hex, as bytes."""
    values = column.to_pylist()
    data = bytes.fromhex("".join(values))
    return np.frombuffer(data, f"S{len(data) // len(values)}")


def hexes(ids: NDArray[np.bytes_]) -> pa.Array:
    """The other way. From one id alone numpy would leave out zeros at its end."""
    width = 2 * ids.dtype.itemsize
    data = np.ascontiguousarray(ids).tobytes().hex()
    return pa.array([data[start : start + width] for start in range(0, len(data), width)], pa.string())
