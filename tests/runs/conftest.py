"""Fixtures of the whole-run tests; what is made lives in `made`, what is started in `cluster`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import made
from tests.runs.cluster import Head, started_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with started_head() as head:
        yield head


@pytest.fixture(scope="session")
def finished(base: Path, blip_filter: Path, blip_captioner: Path) -> Path:
    return made.finished_run(base, blip_filter, blip_captioner)
