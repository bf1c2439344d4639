"""What several whole-run tests start from, made once a session: a crawl, a recipe, a finished run."""

from functools import cache
from pathlib import Path
from typing import Any

from capfilt.pipeline.demo.crawl import write_demo
from tests.scenarios.command import capfilt, write_recipe

HUMAN, WEB = 60, 60
SPECIAL = "web-00009.jpg"


@cache
def crawl(base: Path) -> Path:
    """A folder with `human` and `crawl`: images and their captions. One crawled image has two texts."""
    out = base / "crawl-of-the-session"
    write_demo(out, 3, human=HUMAN, web=WEB, concepts=6)
    with (out / "crawl" / "captions.csv").open("a") as rows:
        rows.write(f"{SPECIAL},an image with a second text\n")
    return out


def checkpoints_recipe(base: Path, filter: Path, captioner: Path) -> dict[str, Any]:
    """Two checkpoint directories, no training, a dozen shards of the crawl."""
    data = crawl(base)
    return {
        "name": "finished",
        "web": {"format": "folder", "path": str(data / "crawl")},
        "human": {"format": "folder", "path": str(data / "human")},
        "models": {
            "filter": {"checkpoint": str(filter)},
            "captioner": {"checkpoint": str(captioner)},
            "precision": "fp32",  # two runs are compared to the fourth digit
        },
        # A random captioner writes little but loops, and these runs are about shards and rows.
        "caption": {"per_image": 2, "guard": {"min_words": 0, "repeats": 0, "prompt_echo": False}},
        "select": {"threshold": 0.5},
        "shards": {"target": "15KB"},
    }


@cache
def finished_run(base: Path, filter: Path, captioner: Path) -> Path:
    """The folder of the undisturbed run of :func:`checkpoints_recipe`, read only; its recipe is beside it."""
    recipe = write_recipe(base / "finished" / "recipe.yaml", checkpoints_recipe(base, filter, captioner))
    capfilt("run", recipe)
    return recipe.parent / "runs" / "finished"
