"""Copies of the crawl's images, and images of an evaluation set in the crawl, planted so that finding them can be
measured: what is whose copy, and how it was changed, is written beside them."""

import csv
import io
from pathlib import Path
from random import Random

from PIL import Image, ImageEnhance

from capfilt.pipeline.demo import drawing
from capfilt.pipeline.demo.grammar import say, truth
from capfilt.pipeline.demo.world import Scene, World

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
