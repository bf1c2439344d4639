import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from tests.pipeline.local import plan_of, run, write_data
from tests.stages.rows import FakeCaptioner, FakeFilter


@dataclass(frozen=True)
class World:
    """A folder with sources, the recipe that cleans them, and perhaps its run."""

    folder: Path
    models: dict[str, Path]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "run")

    def plan(self, **changes: Any) -> Plan:
        return plan_of(self.folder, self.models, **changes)


@contextmanager
def knowing_models() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
        patch.setattr("capfilt.models.open.open_captioner", lambda *_: FakeCaptioner())
        yield


@pytest.fixture
def _knowing_models() -> Iterator[None]:
    with knowing_models():
        yield


@pytest.fixture
def world(tmp_path: Path, blip_filter: Path, blip_captioner: Path, _knowing_models: None) -> World:
    write_data(tmp_path)
    return World(tmp_path, {"filter": blip_filter, "captioner": blip_captioner})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, blip_filter: Path, blip_captioner: Path) -> Ledger:
    """A finished run; read only."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder)
    with knowing_models():
        return run(plan_of(folder, {"filter": blip_filter, "captioner": blip_captioner}))


@pytest.fixture
def done(
    finished: Ledger, tmp_path: Path, blip_filter: Path, blip_captioner: Path, _knowing_models: None
) -> World:
    """A world whose run is finished, with sources and run in a place of their own."""
    shutil.copytree(finished.storage.path.parent, tmp_path / "done")
    return World(tmp_path / "done", {"filter": blip_filter, "captioner": blip_captioner})


@pytest.fixture
def copied(finished: Ledger, tmp_path: Path, _knowing_models: None) -> Ledger:
    """The same in a place of its own, to be damaged."""
    return Ledger(Path(shutil.copytree(finished.storage.path, tmp_path / "elsewhere/run")))
