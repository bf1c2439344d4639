"""Fixtures of the whole-run tests; what is made lives in `made`, what is started in `cluster`."""

from collections.abc import Iterator

import pytest

from tests.scenarios.cluster import Head, started_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with started_head() as head:
        yield head
