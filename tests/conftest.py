"""Fixtures that several packages' tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.store import Store


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
