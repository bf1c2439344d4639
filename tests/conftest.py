"""Fixtures that several packages' tests share."""

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
