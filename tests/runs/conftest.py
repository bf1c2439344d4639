"""Fixtures of the whole-run tests; what is made lives in `made`, so that the fault tests share it."""

from pathlib import Path
from typing import Any

import pytest

from tests.runs import made


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def crawl(base: Path) -> Path:
    return made.crawl(base)


@pytest.fixture(scope="session")
def recipe(base: Path, blip_filter: Path, blip_captioner: Path) -> dict[str, Any]:
    return made.checkpoints_recipe(base, blip_filter, blip_captioner)


@pytest.fixture(scope="session")
def finished(base: Path, blip_filter: Path, blip_captioner: Path) -> Path:
    return made.finished_run(base, blip_filter, blip_captioner)
