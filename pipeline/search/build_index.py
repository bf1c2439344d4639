"""Make the index of a stage: embed what the run has not embedded yet, and put the vectors into faiss."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from capfilt.data_contracts.errors import SourceError
from capfilt.models.open import digest_of
from capfilt.models.protocols import Embedder
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import Files, batches, columns, files
from capfilt.pipeline.reports.stages import demand_stage
from capfilt.pipeline.search.index import FOLDER, IndexFacts, Of, image_files, state_of
from capfilt.stages.dedup.embed import embed_images, embed_texts
from capfilt.stages.dedup.neighbours import EXACT_UP_TO, number_of_lists, require_faiss

AT_ONCE = 1024

_TEXTED = ("caption", "score", "export")


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
    own, others = _rows_of(ledger, stage), {"images": image_files(ledger)}
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
    yield from _embedded(batches(sql, own, **others), "image", partial(_embed_images, embedder))


def _texts(
    ledger: Ledger, stage: str, embedder: Embedder, known: Files
) -> Iterator[tuple[pa.Table, NDArray[np.float16], int]]:
    """The stage's texts, each once an image, with their vectors."""
    own, others = _rows_of(ledger, stage), {"images": image_files(ledger)}
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
    yield from _embedded(batches(sql, own, **others), "text", partial(_embed_texts, embedder))


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


def _embed_images(embedder: Embedder, data: list[bytes]) -> tuple[NDArray[np.float16], int]:
    from capfilt.models.images.decode import decode

    if not data:
        return embed_texts(embedder, []), 0
    return embed_images(embedder, [decode(one) for one in data], [f"image {n}" for n in range(len(data))]), 0


def _embed_texts(embedder: Embedder, texts: list[str]) -> tuple[NDArray[np.float16], int]:
    distinct = list(dict.fromkeys(texts))
    found = embed_texts(embedder, distinct)
    at = {text: number for number, text in enumerate(distinct)}
    return found[[at[text] for text in texts]] if texts else found, embedder.count_truncated(distinct)
