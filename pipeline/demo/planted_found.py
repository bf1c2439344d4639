"""What deduplication and decontamination found of what was planted."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from capfilt.pipeline.demo.crawl import read_truth
from capfilt.pipeline.demo.planted import EDITS, TABLE
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query


def found_by_truth(out: Path, ledger: Ledger) -> dict[str, Any]:
    """What deduplication and decontamination found of the planted copies, by how they were changed, and what else.

    A copy of a crawled image is found when one of the two left for the other, or both for a third. ``precision`` is
    the share of the rows that left as a duplicate whose keeper shows the same planted image; ``same_scene`` counts
    the others whose keeper is another drawing of the very same scene.
    """
    with (out / TABLE).open(encoding="utf-8", newline="") as table:
        planted = list(csv.DictReader(table))
    scenes = read_truth(out)
    names = {
        row["row_id"]: Path(row["url"]).name
        for row in query("SELECT row_id, url FROM files", files(ledger, "ingest"))
    }
    keeper: dict[str, str] = {}
    held: set[str] = set()
    for row in query("SELECT row_id, reason, duplicate_of FROM files", files(ledger, "dedup", rejects=True)):
        if row["reason"] == "held_out":
            held.add(names[row["row_id"]])
        else:
            keeper[names[row["row_id"]]] = names[row["duplicate_of"]]
    original = {row["file"]: Path(row["of"]).name for row in planted if row["of"].startswith("crawl/")}
    leaks = {row["file"] for row in planted if not row["of"].startswith("crawl/")}
    how = {row["file"]: row["edit"] for row in planted}

    def group(name: str) -> str:
        return keeper.get(name, name)

    asked = [file for file in original if file not in held and original[file] not in held]
    hits = [file for file in asked if group(file) == group(original[file])]
    true = [file for file in keeper if original.get(file, file) == original.get(keeper[file], keeper[file])]
    wrong = keeper.keys() - set(true)
    return {
        "copies": len(asked),
        "found": len(hits),
        "recall": len(hits) / len(asked) if asked else None,
        "by_edit": _by_edit(asked, hits, how),
        "left": len(keeper),
        "precision": len(true) / len(keeper) if keeper else None,
        "same_scene": sum(scenes[file] == scenes[keeper[file]] for file in wrong),
        "leaks": len(leaks),
        "leaks_removed": len(leaks & held),
        "leaks_by_edit": _by_edit(sorted(leaks), sorted(leaks & held), how),
        "others_held_out": len(held - leaks),
    }


def _by_edit(asked: list[str], hits: list[str], how: dict[str, str]) -> dict[str, str]:
    of, found = Counter(how[file] for file in asked), Counter(how[file] for file in hits)
    return {kind: f"{found[kind]}/{of[kind]}" for kind in EDITS if of[kind]}
