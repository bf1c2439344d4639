"""What deduplication, decontamination and balance did, for the report: from the records of their parts."""

import json
from typing import Any

from capfilt.pipeline.ledger.ledger import Ledger


def build(ledger: Ledger) -> dict[str, Any]:
    """By stage (`embed`, `dedup`, `balance`) what it says of itself; only those that the run has and that are done.

    ``late_shards`` of `dedup` were fetched after it: nothing was compared with them.
    """
    planned = ledger.record().fingerprints
    found: dict[str, Any] = {}
    if "embed" in planned:
        facts = _facts(ledger, "embed")
        found["embed"] = {
            "dim": max((one["dim"] for one in facts), default=None),
            "texts": sum(one["texts"] for one in facts),
            "texts_truncated": sum(one["texts_truncated"] for one in facts),
        }
    for stage in ("dedup", "balance"):
        if stage in planned and (facts := _facts(ledger, stage)):
            found[stage] = facts[0]
    if "dedup" in found:
        found["dedup"]["late_shards"] = len(ledger.index("dedup").missing(ledger.index("ingest").shards))
    return found


def warnings(found: dict[str, Any]) -> list[str]:
    """What a user should know before trusting the dataset."""
    dedup, said = found.get("dedup", {}), []
    if late := dedup.get("late_shards"):
        said.append(
            f"{late:,} shards were fetched after deduplication: nothing in them was compared with the rest, or with "
            "what is held out. A fork with another `dedup` key, or a new run, compares them as well."
        )
    if dedup.get("largest_group", 0) > max(1000, dedup.get("rows", 0) // 20):
        said.append(
            f"{dedup['largest_group']:,} of {dedup['rows']:,} images are one group of duplicates: a chain of "
            "images each like the next. Look at them (`capfilt inspect RUN dedup --rejects`), "
            "and raise dedup.similarity."
        )
    if "recall" in dedup and dedup["recall"] < 0.9:
        said.append(
            f"The inverted file found {dedup['recall']:.0%} of the near-duplicates of a sample. dedup.search: exact "
            "finds all, at a cost that grows with the square of the crawl."
        )
    return said


def _facts(ledger: Ledger, stage: str) -> list[dict[str, Any]]:
    return [json.loads(facts) for facts in ledger.index(stage).table["facts"].to_pylist() if facts]
