"""Fixtures that several packages' tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def blip_filter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BlipForImageTextRetrieval directory; read only."""
    from tests.blip_checkpoint import make_blip  # transformers takes seconds: only for those who need it

    return make_blip(tmp_path_factory.mktemp("blip") / "filter", "filter")


@pytest.fixture(scope="session")
def blip_captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BlipForConditionalGeneration directory; read only."""
    from tests.blip_checkpoint import make_blip

    return make_blip(tmp_path_factory.mktemp("blip") / "captioner", "captioner")


@pytest.fixture(scope="session")
def adapter_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny checkpoint in `adapter_checkpoints`, by its name there; made once, read only."""
    from tests.adapter_checkpoints import make

    folder = tmp_path_factory.mktemp("adapters")

    def made(name: str) -> Path:
        return folder / name if (folder / name).exists() else make(folder / name, name)

    return made


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def crawl(base: Path) -> Path:
    """A folder with `human` and `crawl`: pictures and their captions."""
    from tests.runs import made

    return made.crawl(base)


@pytest.fixture(scope="session")
def recipe(base: Path, blip_filter: Path, blip_captioner: Path) -> dict[str, Any]:
    """A recipe with two checkpoint directories, no training, a dozen shards of the crawl."""
    from tests.runs import made

    return made.checkpoints_recipe(base, blip_filter, blip_captioner)
