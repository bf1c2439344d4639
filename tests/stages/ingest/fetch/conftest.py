from collections.abc import Iterator

import pytest

from tests.hostile import Hostile


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture
def private() -> Iterator[Hostile]:
    """A server that nobody may connect to: policies here allow 127.0.0.1 alone."""
    with Hostile("127.0.0.2") as server:
        yield server
        assert server.connections == 0, server.log
