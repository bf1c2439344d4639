"""What a job gets as its working directory: its recipe, and the code unless the cluster has it."""

import importlib.metadata
import shutil
from pathlib import Path

import yaml

from capfilt.pipeline.planning.schema import Recipe


def pack(folder: Path, recipe: Recipe, *, code: bool) -> None:
    """Write it into ``folder``."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.plain(), sort_keys=False))
    if not code:
        return
    package = Path(__file__).parents[2]  # capfilt/, whose folders are links in a checkout
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    about = importlib.metadata.distribution("capfilt")
    home = folder / f"capfilt-{about.version}.dist-info"  # by it the code knows its version
    home.mkdir()
    (home / "METADATA").write_text(about.read_text("METADATA") or "")
