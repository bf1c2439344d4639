"""Find images that are the same, or nearly, and those that are held out: what goes on is unique.

Everything is decided in one order of the rows, that of the keeper rule, so neither shards nor workers matter: a
group's keeper is its first member.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.records import Embedding, HeldOutImage, IngestedImage, Record, UniqueImage
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.dedup.crawl_vectors import Compared, CrawlVectors, HeldOutVectors, hexes
from capfilt.stages.dedup.neighbours import Flat, InvertedFile, Pairs, hash_pairs, require_faiss, search_of
from capfilt.stages.dedup.union_find import UnionFind
from capfilt.stages.stage import GlobalStage, Rejected, Rows, Site, StageInput

SAMPLE = 1000  # images whose like is also looked for exactly, to say what the inverted file misses
MOST_TEXTS = 100  # that an image gathers of its duplicates
NO_ONE = -1


@dataclass(frozen=True)
class DedupSettings:
    """When two images are one: their hashes differ in at most ``hash_alone`` of 256 bits; or their embeddings have
    a cosine of ``similarity`` and their hashes differ in at most ``hash_beside`` bits.

    An embedding sees what is shown, so alone it would call two photos of one thing the same: the layout has to
    agree, too. ``hash_beside`` 256 asks for no such thing (duplicates by meaning). ``memory`` bounds, in bytes, what
    the search holds; it changes no result.
    """

    similarity: float = 0.95
    hash_beside: int = 72
    hash_alone: int = 24
    search: Literal["auto", "exact", "ivf"] = "auto"
    memory: int = field(default=4 * 10**9, metadata={"identity": False})

    def __post_init__(self) -> None:
        """Raises :class:`RecipeError` for a value that means nothing."""
        sound = {
            "similarity": 0.0 < self.similarity <= 1.0,
            "hash_beside": 0 <= self.hash_beside <= 256,
            "hash_alone": 0 <= self.hash_alone <= 64,
            "memory": self.memory >= 64 * 10**6,
        }
        if wrong := [name for name, fine in sound.items() if not fine]:
            raise RecipeError(
                what=f"dedup.{wrong[0]} cannot be {getattr(self, wrong[0])!r}",
                evidence="similarity is a cosine in (0, 1]; of the hash's 256 bits hash_alone may be 64 at most, "
                "above which unlike images agree by chance; memory is 64MB at least",
                remedy=f"leave it out for its default, {getattr(DedupSettings, wrong[0])!r}",
            )


class _Found(NamedTuple):
    """What was decided of each distinct image: the first of its group, and who held-out it is like, or NO_ONE."""

    root: NDArray[np.int64]
    holdout: NDArray[np.int64]
    facts: dict[str, Any]


@dataclass(frozen=True)
class FindDuplicates(GlobalStage):
    """Images to those that go on, shard by shard; the others leave with whom they are like, and how much.

    Held-out images' like leave first. Of a group of duplicates one stays: the largest, then the one whose web text
    fits best (ITC), then the smallest row_id. ``merge_texts`` gathers on it what the others said. Without
    ``duplicates`` only what is like a held-out image leaves.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Embedding, HeldOutImage, IngestedImage)
    produces: ClassVar[type[Record]] = UniqueImage
    lists: ClassVar[bool] = True

    like: DedupSettings = DedupSettings()
    duplicates: bool = True
    merge_texts: bool = False

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        require_faiss()
        crawl = CrawlVectors.read(inputs, site.scratch, self.like.memory)
        memory = max(64 * 10**6, (self.like.memory - crawl.held) // 4)
        flat = Flat(memory, site.threads, site.device != "cpu")
        held = HeldOutVectors.read(inputs, crawl.dim)
        site.progress(0, 0, f"{crawl.images:,} distinct images")
        holdout = self._held_out(crawl, held, flat)
        found = self._groups(crawl, holdout, flat, site)
        yield from self._rows(inputs, crawl, held, found)

    # -- deciding -----------------------------------------------------------------------------------------

    def _held_out(self, crawl: CrawlVectors, held: HeldOutVectors, flat: Flat) -> NDArray[np.int64]:
        """For each distinct image the held-out image that it is most like; NO_ONE of most."""
        best = np.full(crawl.images, NO_ONE, np.int64)
        cosine = np.full(crawl.images, -np.inf)
        for rows, others in held.near(crawl, flat, self.like.similarity, self.like.hash_alone):
            compared = crawl.compare(rows, held.vectors[others], held.hashes[others])
            same = crawl.image_ids[rows] == held.image_ids[others]
            accepted = same | self._accept(compared)
            like = np.where(same, 2.0, compared.cosine)
            for row, other, much in zip(rows[accepted], others[accepted], like[accepted], strict=True):
                if (much, -other) > (cosine[row], -best[row]):
                    best[row], cosine[row] = other, much
        return best

    def _accept(self, pairs: Compared) -> NDArray[np.bool_]:
        near = (pairs.cosine >= self.like.similarity) & (pairs.differ <= self.like.hash_beside)
        return near | (pairs.told & (pairs.differ <= self.like.hash_alone))

    def _groups(self, crawl: CrawlVectors, holdout: NDArray[np.int64], flat: Flat, site: Site) -> _Found:
        groups = UnionFind(crawl.images)
        kind = search_of(self.like.search, crawl.images)
        facts: dict[str, Any] = {"search": kind, "images": crawl.images, "rows": crawl.rows}
        if not self.duplicates:
            return _Found(groups.all(), holdout, {**facts, "search": "none"})
        sample = crawl.sample()
        truth_of = np.zeros(crawl.images, bool)
        truth_of[sample[:SAMPLE]] = kind == "ivf"
        seen: set[tuple[int, int]] = set()

        def join(pairs: Iterator[Pairs], what: str) -> int:
            joined = 0
            for number, (one, other) in enumerate(pairs):
                free = (holdout[one] == NO_ONE) & (holdout[other] == NO_ONE)
                one, other = self._alike(crawl, one[free], other[free])
                groups.union(one, other)
                joined += len(one)
                asked = truth_of[one] | truth_of[other]
                seen.update(zip(one[asked].tolist(), other[asked].tolist(), strict=True))
                if number % 16 == 0:
                    site.progress(joined, 0, f"{what}: {joined:,} pairs are alike")
            return joined

        telling = np.flatnonzero(crawl.hashes.any(1))
        hashed = hash_pairs(crawl.hashes[telling], self.like.hash_alone, flat.memory, exact=kind == "exact")
        facts["hash_pairs"] = join(((telling[one], telling[other]) for one, other in hashed), "hashes")
        if kind == "exact":
            found = flat.pairs(crawl.vectors, crawl.images, crawl.dim, self.like.similarity)
        else:
            # From the other end: a centroid is nearer to those that it was learnt from than to all others.
            file = InvertedFile.build(flat, crawl.vectors, crawl.images, crawl.dim, sample[::-1])
            facts |= {"lists": file.lists, "probes": int(file.assigned.shape[1])}
            found = file.pairs(crawl.vectors, self.like.similarity)
        facts["embedding_pairs"] = join(found, f"embeddings, {kind}")
        if kind == "ivf":
            facts |= self._recall(crawl, holdout, flat, np.sort(sample[:SAMPLE]), seen)
        return _Found(groups.all(), holdout, facts)

    def _alike(self, crawl: CrawlVectors, one: NDArray[np.int64], other: NDArray[np.int64]) -> Pairs:
        """Of these pairs those that are alike, by arithmetic that does not depend on how they were found."""
        accepted = self._accept(crawl.compare(one, crawl.halves(other), crawl.hashes[other]))
        return one[accepted], other[accepted]

    def _recall(
        self,
        crawl: CrawlVectors,
        holdout: NDArray[np.int64],
        flat: Flat,
        sample: NDArray[np.int64],
        seen: set[tuple[int, int]],
    ) -> dict[str, Any]:
        """Which share of the pairs of a sample was found, against a search through everything."""
        truth: set[tuple[int, int]] = set()
        queries = crawl.vectors(sample)
        step = max(1024, flat.memory // (16 * crawl.dim))
        for start in range(0, crawl.images, step):
            base = crawl.vectors(slice(start, min(start + step, crawl.images)))
            for rows, found in flat.hits(queries, base, self.like.similarity):
                one, other = sample[rows], found + start
                free = (one != other) & (holdout[one] == NO_ONE) & (holdout[other] == NO_ONE)
                one, other = self._alike(crawl, one[free], other[free])
                low, high = np.minimum(one, other), np.maximum(one, other)
                truth.update(zip(low.tolist(), high.tolist(), strict=True))
        recall = len(truth & seen) / len(truth) if truth else 1.0
        return {"recall": recall, "recall_pairs": len(truth), "recall_sample": len(sample)}

    # -- telling ------------------------------------------------------------------------------------------

    def _rows(
        self, inputs: StageInput, crawl: CrawlVectors, held: HeldOutVectors, found: _Found
    ) -> Iterator[Rows]:
        image = crawl.image_of_row  # the distinct image of each row, in the order of the keeper rule
        root = found.root[image]
        out = found.holdout[image] != NO_ONE
        counts = np.bincount(root[~out], minlength=crawl.images)
        if self.duplicates:
            keeper = crawl.first_row[root]
            stays = ~out & (keeper == np.arange(crawl.rows))
        else:
            keeper, stays = np.arange(crawl.rows), ~out
            counts = np.ones(crawl.images, np.int64)
        same_bytes = int((~out & ~stays & (image == image[keeper])).sum())
        facts = {
            **found.facts,
            "kept": int(stays.sum()),
            "held_out": int(out.sum()),
            "same_bytes": same_bytes,
            "near": int((~out & ~stays).sum()) - same_bytes,
            "groups": int((counts > 1).sum()),
            "largest_group": int(counts.max(initial=0)),
            "held_out_set": len(held.names),
        }
        texts, too_many = self._gathered(inputs, crawl, keeper, stays) if self.merge_texts else ({}, 0)
        if too_many:
            facts["texts_left_out"] = too_many
        notes = (_note(facts),)
        for shard, rows in crawl.shards():
            own = rows[stays[rows]]
            columns = {
                "row_id": hexes(crawl.row_ids[own]),
                "image_id": hexes(crawl.image_ids[image[own]]),
                "rows": pa.array(counts[root[own]] if self.duplicates else np.ones(len(own), np.int64)),
                "texts": pa.array(
                    [texts.get(int(row), []) for row in own], Contract(UniqueImage).schema.field("texts").type
                ),
            }
            kept = pa.table(list(columns.values()), schema=Contract(UniqueImage).schema)
            left = [*self._duplicates(crawl, keeper, rows[~out[rows] & ~stays[rows]])]
            left += self._like_held_out(crawl, held, found, rows[out[rows]])
            yield Rows(kept, left, shard=shard, units=len(rows), notes=notes, facts=facts)

    def _duplicates(
        self, crawl: CrawlVectors, keeper: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Iterator[Rejected]:
        image, kept = crawl.image_of_row[rows], crawl.image_of_row[keeper[rows]]
        compared = crawl.compare(image, crawl.halves(kept), crawl.hashes[kept])
        by_hash = compared.told & (compared.differ <= self.like.hash_alone)
        alike = self._accept(compared)
        named, of_names = (hexes(crawl.row_ids[some]).to_pylist() for some in (rows, keeper[rows]))
        how = np.select(
            [image == kept, by_hash, alike],
            ["the same bytes", "by hash", "by embedding"],
            "through others of its group",
        )
        told = zip(named, of_names, compared.cosine, compared.differ, how, strict=True)
        for row, of, like, bits, why in told:
            detail = f"keeper {of}, similarity {like:.4f}, {bits} of 256 bits differ: {why}"
            yield Rejected(row, row, Reason.DUPLICATE_OF, detail, duplicate_of=of)

    def _like_held_out(
        self, crawl: CrawlVectors, held: HeldOutVectors, found: _Found, rows: NDArray[np.int64]
    ) -> Iterator[Rejected]:
        image = crawl.image_of_row[rows]
        others = found.holdout[image]
        compared = crawl.compare(image, held.vectors[others], held.hashes[others])
        named = hexes(crawl.row_ids[rows]).to_pylist()
        for row, other, like, bits in zip(named, others, compared.cosine, compared.differ, strict=True):
            detail = f"{held.names[other]}, similarity {like:.4f}, {bits} of 256 bits differ"
            yield Rejected(row, row, Reason.HELD_OUT, detail, duplicate_of=held.names[other])

    def _gathered(
        self, inputs: StageInput, crawl: CrawlVectors, keeper: NDArray[np.int64], stays: NDArray[np.bool_]
    ) -> tuple[dict[int, list[str]], int]:
        """By keeper what its duplicates said, in the order of the keeper rule, without its own texts.

        And how many texts are beyond MOST_TEXTS: of an image that stands under a million not all can be judged.
        """
        many = np.zeros(crawl.rows, bool)
        many[keeper[~stays & (keeper != np.arange(crawl.rows))]] = True
        said: dict[int, list[tuple[int, list[str]]]] = {}
        place = dict(crawl.shards())
        for shard in inputs.names(IngestedImage):
            part = inputs.part(IngestedImage, shard, ["row_id", "texts"])
            rows = place.get(shard, np.empty(0, np.int64))
            at = dict(zip(hexes(crawl.row_ids[rows]).to_pylist(), rows.tolist(), strict=True))
            for row, texts in zip(part["row_id"].to_pylist(), part["texts"].to_pylist(), strict=True):
                if (number := at.get(row)) is not None and many[keeper[number]]:
                    said.setdefault(int(keeper[number]), []).append((number, texts))
        found, too_many = {}, 0
        for number, lists in said.items():
            lists.sort()
            own = set(next(texts for row, texts in lists if row == number))
            others = dict.fromkeys(text for row, texts in lists for text in texts if text not in own)
            found[number] = list(others)[:MOST_TEXTS]
            too_many += len(others) - len(found[number])
        return found, too_many


def _note(facts: dict[str, Any]) -> str:
    """The summary in words."""
    how = {
        "exact": "all pairs were compared",
        "ivf": f"by an inverted file of {facts.get('lists')} lists, which found {facts.get('recall', 1):.1%} of the "
        f"{facts.get('recall_pairs', 0)} pairs of a sample",
        "none": "only held-out images were looked for",
    }[facts["search"]]
    return (
        f"{facts['same_bytes']:,} rows repeat bytes, {facts['near']:,} nearly, in {facts['groups']:,} groups "
        f"(the largest of {facts['largest_group']:,} rows); {facts['held_out']:,} are like one of "
        f"{facts['held_out_set']:,} held-out images; {how}"
        + (
            f"; {facts['texts_left_out']:,} texts were too many for one image"
            if "texts_left_out" in facts
            else ""
        )
    )
