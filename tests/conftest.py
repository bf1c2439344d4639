"""Fixtures that several packages' tests share."""

from collections.abc import Callable
from pathlib import Path

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
