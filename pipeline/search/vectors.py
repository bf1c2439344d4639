"""The index of a stage: its images' and its texts' vectors in faiss, and beside them what they are.

It lies in the run's ``_index/STAGE``: derived, made again at will, no part of the run's record.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from capfilt.data_contracts.errors import ModelError, SourceError, UsageError
from capfilt.models.open import digest_of
from capfilt.models.protocols import Embedder
from capfilt.pipeline.ad_hoc import images
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.planning.status import model_digest
from capfilt.pipeline.reports.query import Files, batches, columns, files
from capfilt.pipeline.reports.stages import demand_stage
from capfilt.stages.dedup.embed import embed_images, embed_texts
from capfilt.stages.dedup.neighbours import EXACT_UP_TO, number_of_lists, require_faiss

Of = Literal["images", "texts"]
FOLDER = "_index"
PROBES = 16  # lists that a query looks into, of an index that has lists
AT_ONCE = 1024
_TEXTED = ("caption", "score", "export")
_FROM = {"select": "score", "balance": ""}


class IndexFacts(BaseModel):
    """What an index was made of. ``state`` stands for the parts of its stage that it saw."""

    model_config = ConfigDict(frozen=True)

    stage: str
    model: str
    digest: str
    dim: int
    images: int
    texts: int
    texts_truncated: int
    kinds: dict[Of, str]
    state: str


class Opened(NamedTuple):
    """One direction of an index: faiss's own, and a row for each of its vectors."""

    facts: IndexFacts
    index: Any
    rows: pa.Table

    def vectors(self) -> NDArray[np.float32]:
        """All vectors, shape (rows, dim)."""
        found: NDArray[np.float32] = self.index.reconstruct_n(0, self.index.ntotal)
        return found


def model_of(ledger: Ledger, given: str | None) -> str:
    """Where the model lies that embeds for a run: the one given, or the best of its own."""
    if given:
        return images.model_of(given, "filter")
    return next(_own_models(ledger), None) or images.model_of(str(ledger.storage), "filter")


def _own_models(ledger: Ledger) -> Iterator[str]:
    """Where the models lie that a run can embed with: the one that its recipe deduplicates with, its filter, the one
    that it pretrains. Those that are not trained yet are left out."""
    record = ledger.record()
    recipe = parse(record.recipe)
    if recipe.dedup is not None and recipe.dedup.model:
        yield str(recipe.dedup.model)
    with suppress(ModelError):
        yield images.model_of(str(ledger.storage), "filter")
    if "pretrain" in record.fingerprints and (digest := model_digest(ledger.index("pretrain"))):
        yield str(ledger.model("pretrain", digest))


def model_behind(ledger: Ledger, facts: IndexFacts, given: str | None) -> str:
    """The model that asks an index: the one given, or that of the run's own which made it.

    Raises:
        UsageError: it is not the one that the index was made with.
    """
    candidates = [model_of(ledger, given)] if given else [*_own_models(ledger)]
    digests = {digest_of(where): where for where in candidates}
    if found := digests.get(facts.digest):
        return found
    asked = ", ".join(f"{where} ({digest[:12]})" for digest, where in digests.items()) or "none"
    raise UsageError(
        what="the index was made with another model: its vectors and yours mean different things",
        evidence=f"made with {facts.model} ({facts.digest[:12]}), asked with {asked}",
        remedy=f"give --model {facts.model}, or index again: capfilt index {ledger.url} --stage {facts.stage}",
    )


def build(ledger: Ledger, stage: str, embedder: Embedder, where: str, *, threads: int = 1) -> IndexFacts:
    """Index a stage's images and texts by the model at ``where``, and put the index into the run.

    What the run's own `embed` stage has of the same model is not embedded again.

    Raises:
        SourceError: the run has no such stage, or the stage has no images and texts.
        UsageError: faiss is not installed.
    """
    faiss = require_faiss()
    faiss.omp_set_num_threads(threads)
    demand_stage(ledger, stage)
    digest = digest_of(where)
    known = _known(ledger, digest)
    counts: dict[Of, int] = {}
    kinds: dict[Of, str] = {}
    truncated = 0
    with ledger.storage.scratch() as scratch:
        found: dict[Of, Iterator[tuple[pa.Table, NDArray[np.float16], int]]] = {
            "images": _images(ledger, stage, embedder, known),
            "texts": _texts(ledger, stage, embedder, known),
        }
        for of, stream in found.items():
            vectors, rows = [], []
            for table, halves, cut in stream:
                rows.append(table)
                vectors.append(halves)
                truncated += cut
            counts[of] = sum(map(len, rows))
            if not counts[of]:
                if of == "images":
                    raise SourceError(
                        what=f"there is nothing to index in {stage}",
                        evidence="none of its rows has an image",
                        remedy="index ingest, human, dedup, caption, score, select or export, once it has rows",
                    )
                continue
            dim = vectors[0].shape[1]
            kinds[of] = "SQfp16" if counts[of] <= EXACT_UP_TO else f"IVF{number_of_lists(counts[of])},SQfp16"
            index = faiss.index_factory(dim, kinds[of], faiss.METRIC_INNER_PRODUCT)
            every = np.concatenate(vectors).astype(np.float32)
            index.train(every)
            index.add(every)
            faiss.write_index(index, str(scratch / f"{of}.faiss"))
            pq.write_table(pa.concat_tables(rows), scratch / f"{of}.parquet", compression="zstd")
        facts = IndexFacts(
            stage=stage,
            model=where,
            digest=digest,
            dim=dim,
            images=counts["images"],
            texts=counts["texts"],
            texts_truncated=truncated,
            kinds=kinds,
            state=state_of(ledger, stage),
        )
        for path in sorted(scratch.iterdir()):
            if path.suffix in (".faiss", ".parquet"):
                ledger.storage.replace(f"{FOLDER}/{stage}/{path.name}", path.read_bytes())
    ledger.storage.replace(f"{FOLDER}/{stage}/index.json", facts.model_dump_json(indent=2).encode())
    return facts


def open_index(ledger: Ledger, stage: str, of: Of) -> Opened:
    """Raises :class:`UsageError` when the stage has no index, or one that cannot be read."""
    faiss = require_faiss()
    again = f"capfilt index {ledger.url} --stage {stage}"
    folder = f"{FOLDER}/{stage}"
    try:
        facts = IndexFacts.model_validate_json(ledger.storage.read(f"{folder}/index.json"))
        if of not in facts.kinds:
            raise UsageError(
                what=f"the index of {stage} has no {of}", evidence=f"it has {facts.images:,} images"
            )
        with ledger.storage.scratch() as scratch:
            path = Path(scratch) / "index.faiss"
            path.write_bytes(ledger.storage.read(f"{folder}/{of}.faiss"))
            index = faiss.read_index(str(path))
        rows = pq.read_table(pa.BufferReader(ledger.storage.read(f"{folder}/{of}.parquet")))
    except FileNotFoundError as error:
        raise UsageError(
            what=f"{stage} of this run has no index yet",
            evidence=f"there is no {ledger.url}/{folder}/index.json",
            remedy=again,
        ) from error
    except (ValidationError, RuntimeError, pa.ArrowException) as error:
        raise UsageError(
            what=f"the index of {stage} cannot be read",
            evidence=str(error).splitlines()[0],
            remedy=again,
        ) from error
    if index.ntotal != len(rows) or index.d != facts.dim:
        raise UsageError(
            what=f"the index of {stage} does not fit together: it was half replaced",
            evidence=f"{index.ntotal} vectors of {index.d} components for {len(rows)} rows of {facts.dim}",
            remedy=again,
        )
    if kind := facts.kinds[of].startswith("IVF"):
        index.nprobe = PROBES if kind else 1
    return Opened(facts, index, rows)


def state_of(ledger: Ledger, stage: str) -> str:
    """Stands for the committed parts of a stage, hex."""
    held = sorted(ledger.index(stage).held().items())
    return hashlib.sha256(repr(held).encode()).hexdigest()


def pictures(ledger: Ledger) -> Files:
    """The files that have images' bytes: those of the crawl and of the human set."""
    crawl = files(ledger, "ingest")
    human = files(ledger, "human") if "human" in ledger.record().fingerprints else Files([])
    return Files([*crawl.paths, *human.paths], crawl.filesystem or human.filesystem)


# -- what a stage has -----------------------------------------------------------------------------------------


def _known(ledger: Ledger, digest: str) -> Files:
    """The vectors that the run's own `embed` stage has, if the model of this digest made them."""
    record = ledger.index("embed").first_record()
    return files(ledger, "embed") if record and digest in record.models.values() else Files([])


def _rows_of(ledger: Ledger, stage: str) -> Files:
    found = files(ledger, stage)
    if not found.paths:
        raise SourceError(
            what=f"{stage} has no rows yet",
            evidence="nothing of it is committed",
            remedy=f"capfilt resume {ledger.url} --until {stage}",
        )
    names = columns(found)
    if "row_id" not in names:
        raise SourceError(
            what=f"{stage} has no images to search",
            evidence=f"its columns: {', '.join(names)}",
            remedy="index ingest, human, dedup, caption, score, select or export",
        )
    return found


def _images(
    ledger: Ledger, stage: str, embedder: Embedder, known: Files
) -> Iterator[tuple[pa.Table, NDArray[np.float16], int]]:
    """The stage's distinct images, with their vectors."""
    own, others = _rows_of(ledger, stage), {"images": pictures(ledger)}
    shown = (
        "SELECT image_id, min(row_id) AS row_id FROM images SEMI JOIN files USING (row_id) GROUP BY image_id"
    )
    if known.paths:
        others["known"] = known
        sql = (
            "SELECT s.image_id, s.row_id, p.url, CASE WHEN k.image IS NULL THEN p.image END AS image, "
            f"k.image AS vector FROM ({shown}) s JOIN images p USING (row_id) LEFT JOIN known k USING (row_id)"
        )
    else:
        sql = (
            "SELECT s.image_id, s.row_id, p.url, p.image, NULL AS vector "
            f"FROM ({shown}) s JOIN images p USING (row_id)"
        )
    yield from _embedded(batches(sql, own, **others), "image", partial(_see, embedder))


def _texts(
    ledger: Ledger, stage: str, embedder: Embedder, known: Files
) -> Iterator[tuple[pa.Table, NDArray[np.float16], int]]:
    """The stage's texts, each once an image, with their vectors."""
    own, others = _rows_of(ledger, stage), {"images": pictures(ledger)}
    if stage in _TEXTED and "text" in columns(own):
        said = "SELECT row_id, text FROM files"
    elif "pair_id" in columns(own):
        others["judged"] = files(ledger, "score")
        said = "SELECT row_id, text FROM judged SEMI JOIN files USING (pair_id)"
    else:
        said = "SELECT row_id, unnest(texts) AS text FROM images SEMI JOIN files USING (row_id)"
    rows = (
        "SELECT p.image_id, min(t.row_id) AS row_id, min(p.url) AS url, t.text "
        f"FROM ({said}) t JOIN images p USING (row_id) GROUP BY p.image_id, t.text"
    )
    if known.paths:
        others["known"] = known
        seen = (
            "SELECT text, any_value(vector) AS vector FROM (SELECT unnest(p.texts) AS text, "
            "unnest(k.texts) AS vector FROM images p JOIN known k USING (row_id)) GROUP BY text"
        )
        sql = f"SELECT r.*, s.vector FROM ({rows}) r LEFT JOIN ({seen}) s USING (text)"
    else:
        sql = f"SELECT *, NULL AS vector FROM ({rows})"
    yield from _embedded(batches(sql, own, **others), "text", partial(_read, embedder))


def _embedded(
    found: Iterator[pa.RecordBatch], what: str, embed: Any
) -> Iterator[tuple[pa.Table, NDArray[np.float16], int]]:
    """Rows and vectors: those that are known, those that are not made with ``embed`` of the column ``what``."""
    for whole in found:
        for start in range(0, whole.num_rows, AT_ONCE):
            batch = whole.slice(start, AT_ONCE)
            vectors = batch["vector"].to_pylist()
            lacking = [number for number, vector in enumerate(vectors) if vector is None]
            made, cut = embed([batch[what][number].as_py() for number in lacking])
            halves = np.empty((batch.num_rows, made.shape[1]), np.float16)
            halves[lacking] = made
            there = [number for number, vector in enumerate(vectors) if vector is not None]
            if there:
                halves[there] = np.array([vectors[number] for number in there], np.float16)
            kept = ["image_id", "row_id", "url", *(["text"] if what == "text" else [])]
            yield pa.Table.from_batches([batch]).select(kept), halves, cut


def _see(embedder: Embedder, data: list[bytes]) -> tuple[NDArray[np.float16], int]:
    from capfilt.models.images.decode import decode

    if not data:
        return embed_texts(embedder, []), 0
    return embed_images(embedder, [decode(one) for one in data], [f"image {n}" for n in range(len(data))]), 0


def _read(embedder: Embedder, texts: list[str]) -> tuple[NDArray[np.float16], int]:
    distinct = list(dict.fromkeys(texts))
    found = embed_texts(embedder, distinct)
    at = {text: number for number, text in enumerate(distinct)}
    return found[[at[text] for text in texts]] if texts else found, embedder.count_truncated(distinct)
