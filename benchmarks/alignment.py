"""What the vectors of a demo's run are worth, by the truth that the demo knows.

    capfilt demo --duplicates --out demo
    capfilt index demo/run --stage ingest && capfilt index demo/run --stage human
    python -m benchmarks.alignment demo demo/run

Retrieval with the images and texts of the human test split as queries, in four directions: what is found is right
when it shows, or says, the very same scene. Zero-shot labels of those images, and in a demo of `--human-concepts 8`
of crawled images of things that no person captioned. Chance beside each figure. Then what deduplication and
decontamination found of the planted copies.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from capfilt.models.open import open_filter
from capfilt.pipeline.ad_hoc.images import inference_for
from capfilt.pipeline.demo.crawl import read_truth
from capfilt.pipeline.demo.planted import TABLE
from capfilt.pipeline.demo.planted_found import found_by_truth
from capfilt.pipeline.demo.world import COLOURS, Scene
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query
from capfilt.pipeline.search.classify import evaluate, probabilities, prompts
from capfilt.pipeline.search.find import find_all
from capfilt.pipeline.search.index import open_index
from capfilt.pipeline.search.models import model_behind
from capfilt.stages.dedup.embed import TOGETHER

KS = (1, 5)


def recall(found: list[list[Scene]], wanted: list[Scene], gallery: list[Scene]) -> dict[str, float | int]:
    """The share of queries with a right one among the first k, and what a random order would reach."""
    counts = {scene: gallery.count(scene) for scene in set(wanted)}
    asked = [number for number, scene in enumerate(wanted) if counts[scene]]
    figures: dict[str, float | int] = {"queries": len(asked), "gallery": len(gallery)}
    for k in KS:
        figures[f"R@{k}"] = round(float(np.mean([wanted[n] in found[n][:k] for n in asked])), 4)
        missed = [(1 - counts[wanted[n]] / len(gallery)) ** k for n in asked]
        figures[f"chance@{k}"] = round(1 - float(np.mean(missed)), 4)
    return figures


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("demo", type=Path)
    asked.add_argument("run", type=Path)
    given = asked.parse_args()
    ledger, scenes = Ledger(given.run), read_truth(given.demo)
    crawl, human = open_index(ledger, "ingest", "images"), open_index(ledger, "human", "images")
    said = open_index(ledger, "human", "texts")
    where = model_behind(ledger, crawl.facts, None)
    model = open_filter(where, "cpu", TOGETHER, inference_for(str(given.run)))

    rows = query("SELECT url, split FROM files", files(ledger, "human"))
    test = {row["url"] for row in rows if row["split"] == "test"}
    at = [number for number, url in enumerate(human.rows["url"].to_pylist()) if url in test]
    pictures = human.vectors()[at]
    shown = [scenes[Path(human.rows["url"][number].as_py()).name] for number in at]
    texts = [(row["url"], row["text"]) for row in said.rows.to_pylist()]
    queries = [number for number, (url, _) in enumerate(texts) if url in test]
    train = [number for number, (url, _) in enumerate(texts) if url not in test]
    read = said.vectors()
    claimed = [scenes[Path(texts[number][0]).name] for number in queries]
    of_texts = [scenes[Path(texts[number][0]).name] for number in train]
    of_images = [scenes[Path(url).name] for url in crawl.rows["url"].to_pylist()]

    def among_images(vectors: NDArray[np.float32]) -> list[list[Scene]]:
        return [[scenes[Path(hit["url"]).name] for hit in hits] for hits in find_all(crawl, vectors, max(KS))]

    def among_texts(vectors: NDArray[np.float32]) -> list[list[Scene]]:
        nearest = np.argsort(-(vectors @ read[train].T), axis=1, kind="stable")[:, : max(KS)]
        return [[of_texts[number] for number in own] for own in nearest.tolist()]

    ways: dict[str, tuple[list[list[Scene]], list[Scene], list[Scene]]] = {
        "text to image": (among_images(read[queries]), claimed, of_images),
        "image to image": (among_images(pictures), shown, of_images),
        "image to text": (among_texts(pictures), shown, of_texts),
        "text to text": (among_texts(read[queries]), claimed, of_texts),
    }
    for name, (found, wanted, gallery) in ways.items():
        print(json.dumps({"retrieval": name, **recall(found, wanted, gallery)}), flush=True)

    concepts = sorted({one for scene in scenes.values() for one in scene.objects})
    captioned = {one for url in human.rows["url"].to_pylist() for one in scenes[Path(url).name].objects}
    one = [number for number, scene in enumerate(shown) if len(scene.objects) == 1]
    new = [
        n
        for n, scene in enumerate(of_images)
        if len(scene.objects) == 1 and scene.objects[0] not in captioned
    ]
    framed = [f"a {{}} on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background" for colour in COLOURS]
    single, many = ["a picture of a {}"], "by eight templates"
    objects = [shown[number].objects[0] for number in one]
    unseen = [of_images[number].objects[0] for number in new]
    tasks: list[tuple[str, list[str], list[str], NDArray[np.float32], list[str]]] = [
        ("the object, of pictures of one", concepts, single, pictures[one], objects),
        (f"the object, {many}", concepts, framed, pictures[one], objects),
        ("the background", list(COLOURS), ["a {} background"], pictures, [scene.colour for scene in shown]),
        (f"an object that no person captioned, {many}", concepts, framed, crawl.vectors()[new], unseen),
    ]
    for name, labels, templates, vectors, truth in tasks:
        if not truth:
            continue
        odds = probabilities(vectors, prompts(model, labels, templates), model.temperature)
        guesses = {str(number): labels[best] for number, best in enumerate(odds.argmax(1))}
        made = evaluate(guesses, {str(number): label for number, label in enumerate(truth)}, labels)
        print(
            json.dumps(
                {
                    "zero-shot": name,
                    "accuracy": round(made.accuracy, 4),
                    "chance": round(made.chance, 4),
                    "majority": round(made.majority, 4),
                    "images": made.images,
                }
            ),
            flush=True,
        )
    if (given.demo / TABLE).exists() and "dedup" in ledger.record().fingerprints:
        print(json.dumps({"planted": found_by_truth(given.demo, ledger)}), flush=True)


if __name__ == "__main__":
    main()
