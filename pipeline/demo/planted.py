"""Copies of the crawl's images, and images of an evaluation set in the crawl, planted so that finding them can be
measured: what is whose copy, and how it was changed, is written beside them."""

import csv
import io
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageEnhance

from capfilt.pipeline.demo import drawing
from capfilt.pipeline.demo.grammar import say, truth
from capfilt.pipeline.demo.world import Scene, World
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query

EDITS = ("same_bytes", "re_encoded", "smaller", "larger", "cropped", "brighter", "darker")
TABLE, FOLDER = "planted.csv", "evaluation"
COLUMNS = ("file", "of", "edit")
_Row = tuple[str, ...]


def edit(data: bytes, how: str, rng: Random) -> bytes:
    """An image's bytes, changed as a copy on the web is."""
    if how == "same_bytes":
        return data
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    match how:
        case "smaller" | "larger":
            scale = rng.uniform(0.7, 0.8) if how == "smaller" else rng.uniform(1.25, 1.5)
            image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        case "cropped":  # 2 to 3% of each side
            left, top, right, bottom = (rng.randint(2, max(2, round(width * 0.03))) for _ in range(4))
            image = image.crop((left, top, width - right, height - bottom))
        case "brighter" | "darker":
            factor = rng.uniform(1.1, 1.2) if how == "brighter" else rng.uniform(0.8, 0.9)
            image = ImageEnhance.Brightness(image).enhance(factor)
    return drawing.jpeg(image, rng.randint(40, 80) if how == "re_encoded" else 85)


def plant(
    out: Path, world: World, seed: int, web: dict[str, Scene], copies: int, evaluation: int
) -> list[_Row]:
    """Write copies of crawled images into the crawl, and a copy of each image of a new evaluation set.

    Gives the rows of ``truth.csv`` for them; ``planted.csv`` says what each is a copy of: a crawled image, or one
    in the folder ``evaluation``.
    """
    rng = Random(f"planted {seed}")
    (out / FOLDER).mkdir(exist_ok=True)
    wanted: list[tuple[str, str, Scene, str]] = []
    originals = rng.sample(sorted(web), copies)
    for number, name in enumerate(originals):
        wanted.append((f"copy-{number:05d}.jpg", f"crawl/{name}", web[name], EDITS[number % len(EDITS)]))
    for number in range(evaluation):
        scene, name = world.scene(rng), f"{FOLDER}/test-{number:05d}.jpg"
        (out / name).write_bytes(drawing.jpeg(drawing.draw(scene, rng)))
        wanted.append((f"leak-{number:05d}.jpg", name, scene, EDITS[number % len(EDITS)]))
    rows: list[_Row] = []
    for file, of, scene, how in wanted:
        (out / "crawl" / file).write_bytes(edit((out / of).read_bytes(), how, rng))
        text = say(scene, rng, 0.0)
        first, second = (*scene.objects, "")[:2]
        rows.append(
            (file, "web", "copy", truth(scene, text), text, first, second, scene.relation or "", scene.colour)
        )
    with (out / TABLE).open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows(
            [COLUMNS, *((file, of, how) for file, of, _, how in wanted)]
        )
    with (out / "crawl/captions.csv").open("a", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows((row[0], row[4]) for row in rows)
    return rows


def found_by_truth(out: Path, ledger: Ledger) -> dict[str, Any]:
    """What deduplication and decontamination found of the planted copies, by how they were changed, and what else.

    A copy of a crawled image is found when one of the two left for the other, or both for a third. ``precision`` is
    the share of the rows that left as a duplicate whose keeper shows the same planted image; ``same_scene`` counts
    the others whose keeper is another drawing of the very same scene.
    """
    from capfilt.pipeline.demo.crawl import read_truth

    with (out / TABLE).open(encoding="utf-8", newline="") as table:
        planted = list(csv.DictReader(table))
    scenes = read_truth(out)
    names = {
        row["row_id"]: Path(row["url"]).name
        for row in query("SELECT row_id, url FROM files", files(ledger, "ingest"))
    }
    keeper: dict[str, str] = {}
    held: set[str] = set()
    for row in query("SELECT row_id, reason, detail FROM files", files(ledger, "dedup", rejects=True)):
        if row["reason"] == "held_out":
            held.add(names[row["row_id"]])
        else:
            keeper[names[row["row_id"]]] = names[row["detail"].split()[1].rstrip(",")]
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
