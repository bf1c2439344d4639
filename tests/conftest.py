"""Fixtures that several packages' tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.workers import SLOW, RayOnOneWorker, starts_ray

if TYPE_CHECKING:
    from tests.store import Store

settings.register_profile("busy", deadline=None)  # a machine with other work is no reason to fail
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray or is slow, and put Ray's first."""
    for item in items:
        if starts_ray(item.nodeid):
            item.add_marker(pytest.mark.ray)
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not starts_ray(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayOnOneWorker:
    return RayOnOneWorker(config, log)


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


@pytest.fixture(scope="session")
def adapter_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny checkpoint in `adapter_checkpoints`, by its name there; made once, read only."""
    from tests.adapter_checkpoints import make

    folder = tmp_path_factory.mktemp("adapters")

    def made(name: str) -> Path:
        return folder / name if (folder / name).exists() else make(folder / name, name)

    return made


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def crawl(base: Path) -> Path:
    """A folder with `human` and `crawl`: images and their captions."""
    from tests.scenarios import made

    return made.crawl(base)


@pytest.fixture(scope="session")
def recipe(base: Path, blip_filter: Path, blip_captioner: Path) -> dict[str, Any]:
    """A recipe with two checkpoint directories, no training, a dozen shards of the crawl."""
    from tests.scenarios import made

    return made.checkpoints_recipe(base, blip_filter, blip_captioner)


@pytest.fixture(scope="session")
def finished(base: Path, blip_filter: Path, blip_captioner: Path) -> Path:
    """The folder of the undisturbed run of that recipe; read only."""
    from tests.scenarios import made

    return made.finished_run(base, blip_filter, blip_captioner)


@pytest.fixture(scope="session")
def store_server() -> Iterator[Store]:
    """An S3 on loopback for the whole session; what a test puts there has a prefix of its own."""
    from tests.store import serving  # moto takes a second

    with serving() as store:
        yield store


@pytest.fixture(scope="module")
def store(store_server: Store) -> Iterator[Store]:
    """The same, with its address and keys in the environment."""
    from tests.store import in_environment

    with in_environment(store_server):
        yield store_server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB, which can be filled and remounted; skips where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
