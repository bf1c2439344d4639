from collections.abc import Callable
from pathlib import Path

import pytest

Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Directories of the tiny checkpoints in `adapter_checkpoints`, by name; made once, read only."""
    from tests.adapter_checkpoints import make

    folder = tmp_path_factory.mktemp("adapters")

    def checkpoint(name: str) -> Path:
        return folder / name if (folder / name).exists() else make(folder / name, name)

    return checkpoint
