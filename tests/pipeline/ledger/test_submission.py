from pathlib import Path

import pytest

from capfilt.data_contracts.errors import CapfiltError, DamageError, RecipeError, StorageError
from capfilt.pipeline.ledger import submission
from capfilt.pipeline.ledger.lease import SUBMISSION
from capfilt.pipeline.ledger.submission import Submission
from capfilt.pipeline.storage import Folder

SENT = Submission(
    job="capfilt-x-1", address="http://head:8265", nonce="n1", host="", submitted="2026", versions={}
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A run whose job this process is."""
    monkeypatch.setenv(SUBMISSION, SENT.nonce)
    monkeypatch.setenv(submission.RUN, str(tmp_path / "run"))
    storage = Folder(tmp_path / "run")
    submission.write(storage, SENT)
    return storage


@pytest.mark.parametrize(
    "error",
    [
        RecipeError(what="a key", evidence="line 3\nremedy: in the evidence", remedy="take it out"),
        StorageError(what="the disk", run="/runs/x"),
        DamageError(what="a part", stage="score", part="part-0.parquet"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_error_of_a_job_is_found_by_its_submission(run: Folder, error: CapfiltError) -> None:
    assert submission.error_of(run, SENT.nonce) is None
    error.__typer_conf__ = object()  # typer hangs such a thing on what passes through it
    submission.leave_error(error)
    found = submission.error_of(run, SENT.nonce)
    assert type(found) is type(error)
    assert found.plain() == error.plain()
    assert str(found) == str(error)
    assert submission.read(run) == SENT  # an error is no submission


def test_nothing_is_left_where_the_submission_is_not_seen(run: Folder) -> None:
    run.remove(SENT.name)
    submission.leave_error(RecipeError(what="a key"))
    assert run.tree(".") == []


def test_nothing_is_left_by_what_is_no_job(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMISSION)
    submission.leave_error(RecipeError(what="a key"))
    assert submission.error_of(run, SENT.nonce) is None


@pytest.mark.parametrize("left", [b"{", b"{}", b"[]", b'{"kind": "Unheard", "what": "x"}'])
def test_an_error_of_another_version_is_none(run: Folder, left: bytes) -> None:
    run.replace(f"{submission.ERRORS}/{SENT.nonce}.json", left)
    assert submission.error_of(run, SENT.nonce) is None
