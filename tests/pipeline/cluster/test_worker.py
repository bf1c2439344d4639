import os
from pathlib import Path

import pytest

from capfilt.pipeline.cluster.worker import Worker


def test_a_worker_whose_working_directory_went_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()
    Worker()
    assert Path.cwd().is_dir()
