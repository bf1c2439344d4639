"""What the run did to images of things that people captioned, and to those of things that they did not."""

from pathlib import Path
from typing import Any

from rich.table import Table

from capfilt.pipeline.demo.grammar import Verdict, objects_named, truth
from capfilt.pipeline.demo.world import Scene
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query

COVERED, MIXED, UNCOVERED = "captioned by people", "in part", "not at all"


def by_concepts(ledger: Ledger, scenes: dict[str, Scene]) -> dict[str, dict[str, Any]]:
    """By the known truth: of the true web texts the share kept, of the captions those that are right.

    ``scenes`` are those of :func:`capfilt.pipeline.demo.crawl.read_truth`. A caption is right about the objects if it
    names all of them and no other; `true` asks for relation and background, too. Empty if people captioned
    everything.
    """
    captioned = {
        thing for file, scene in scenes.items() if file.startswith("human") for thing in scene.objects
    }
    urls = {
        row["row_id"]: row["url"] for row in query("SELECT row_id, url FROM files", files(ledger, "ingest"))
    }
    kept = {row["pair_id"] for row in query("SELECT pair_id FROM files", files(ledger, "select"))}
    web: dict[str, list[bool]] = {}
    right: dict[str, list[tuple[bool, bool]]] = {}

    def shown(row: str) -> tuple[Scene, str]:
        """What a row's image shows, and whether people captioned such things."""
        scene = scenes[Path(urls[row]).name]
        known = captioned.intersection(scene.objects)
        return scene, COVERED if len(known) == len(scene.objects) else MIXED if known else UNCOVERED

    for row in query("SELECT pair_id, row_id, text FROM files WHERE source = 'web'", files(ledger, "score")):
        scene, group = shown(row["row_id"])
        if truth(scene, row["text"]) is Verdict.MATCH:
            web.setdefault(group, []).append(row["pair_id"] in kept)
    for row in query("SELECT row_id, text FROM files", files(ledger, "caption")):
        scene, group = shown(row["row_id"])
        named = set(objects_named(row["text"])) == set(scene.objects)
        right.setdefault(group, []).append((named, truth(scene, row["text"]) is Verdict.MATCH))
    if web.keys() | right.keys() == {COVERED}:
        return {}
    return {
        group: {
            "true_texts": len(web.get(group, ())),
            "true_kept": _share(web.get(group, [])),
            "captions": len(right.get(group, ())),
            "objects_right": _share([named for named, _ in right.get(group, ())]),
            "true": _share([matches for _, matches in right.get(group, ())]),
        }
        for group in (COVERED, MIXED, UNCOVERED)
    }


def _share(held: list[bool]) -> float | None:
    return sum(held) / len(held) if held else None


def table_of(found: dict[str, dict[str, Any]]) -> Table:
    """The same for a terminal."""
    table = Table(
        *("things in the image", "true web texts", "kept", "captions", "objects right", "true"),
        title="by what people captioned",
    )
    for group, row in found.items():
        shares = [
            "-" if row[name] is None else f"{row[name]:.1%}"
            for name in ("true_kept", "objects_right", "true")
        ]
        table.add_row(group, f"{row['true_texts']:,}", shares[0], f"{row['captions']:,}", *shares[1:])
    return table
