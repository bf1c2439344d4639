import os
from pathlib import Path

import pytest

from capfilt.pipeline.cluster.worker import Worker, crash_file, last_words


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


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (None, "SIGKILL"),
        ("", "SIGKILL"),
        ("Fatal Python error: Segmentation fault\n\nCurrent thread", "the process died: Segmentation fault"),
        ("Timeout (0:00:05)!\nThread", "deadline"),
    ],
)
def test_the_last_words_of_a_process(left: str | None, said: str) -> None:
    pid = 4_000_000_000  # nobody's
    crash_file(pid).parent.mkdir(parents=True, exist_ok=True)
    if left is not None:
        crash_file(pid).write_text(left)
    crash_file(pid).with_suffix(".json").write_text('["a", "b"]')
    words, in_hand = last_words(pid)
    assert said in words
    assert in_hand == ("a", "b")
    assert last_words(pid)[1] == ()  # they are gone once they were read
