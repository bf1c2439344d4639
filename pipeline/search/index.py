"""The index of a stage: its images' and its texts' vectors in faiss, and beside them what they are.

It lies in the run's ``_index/STAGE``: derived, made again at will, no part of the run's record.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import Files, files
from capfilt.stages.dedup.neighbours import require_faiss

Of = Literal["images", "texts"]

FOLDER = "_index"

PROBES = 16  # lists that a query looks into, of an index that has lists


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
    if facts.kinds[of].startswith("IVF"):
        index.nprobe = PROBES
    return Opened(facts, index, rows)


def state_of(ledger: Ledger, stage: str) -> str:
    """Stands for the committed parts of a stage, hex."""
    held = sorted(ledger.index(stage).held().items())
    return hashlib.sha256(repr(held).encode()).hexdigest()


def image_files(ledger: Ledger) -> Files:
    """The files that have images' bytes: those of the crawl and of the human set."""
    crawl = files(ledger, "ingest")
    human = files(ledger, "human") if "human" in ledger.record().fingerprints else Files([])
    return Files([*crawl.paths, *human.paths], crawl.filesystem or human.filesystem)
