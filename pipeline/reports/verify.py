"""Read every committed part and model of a run again, and compare it with its record."""

from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.data_contracts.errors import CapfiltError
from capfilt.data_contracts.ledger import StageTotals
from capfilt.pipeline.ledger.commit_index import CommitIndex, Part
from capfilt.pipeline.ledger.index_store import reader_of
from capfilt.pipeline.ledger.ledger import Ledger


def verify(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """Reread every committed part and model of the run: (stage, name, problem), problem empty when sound.

    What is damaged is noted in the run, so that a resume, which trusts names and sizes, mends it.
    """
    for stage in ledger.record().fingerprints:
        totals, index = ledger.look(stage)
        for name, problem in index.damaged.items():
            yield stage, name, problem
        for shard, (name, sha256) in index.held().items():
            problem = ""
            try:
                pq.ParquetFile(ledger.read(stage, name, sha256), page_checksum_verification=True).read()
                part = index.part(shard)
                problem = _account(ledger, stage, part)
                if digest := part.record and part.record.facts.get("model"):
                    found = ledger.model_digest(stage)
                    if found != digest:
                        problem = f"models/{stage} has digest {found[:12]} instead of {digest[:12]}"
            except CapfiltError as error:
                problem = error.evidence or error.what
            if problem:
                with suppress(CapfiltError):  # a copy may be read-only
                    ledger.suspect(stage, name, problem)
            yield stage, name, problem
        for shard in unaccounted(totals, index):
            yield stage, f"shard {shard}", "its part is gone"


def _account(ledger: Ledger, stage: str, part: Part) -> str:
    """What is wrong with the account of a part's rows: those that left are told of in a file of their own."""
    record = part.record
    if record is None:
        return ""
    if not record.conserved:
        return "its rows are not conserved"
    left = record.left
    if not record.rejects:
        return f"it has no file of the {left} rejects" if left else ""
    try:
        data = ledger.home(stage).storage.read(f"{stage}/{record.rejects}")
        rows = pq.ParquetFile(reader_of(data), page_checksum_verification=True).read().num_rows
    except FileNotFoundError:
        return f"{record.rejects} is gone"
    except (pa.ArrowException, OSError) as error:
        return f"{record.rejects} cannot be read: {str(error).splitlines()[0]}"
    return "" if rows == left else f"{record.rejects} has {rows} rejects instead of {left}"


def unaccounted(totals: StageTotals | None, index: CommitIndex) -> Iterator[str]:
    """Shards that the stage's totals name and that are not there."""
    if totals is not None:
        bad = {name.removeprefix("part-").partition(".")[0] for name in index.damaged}
        yield from (shard for shard in index.missing(totals.shards) if shard not in bad)
