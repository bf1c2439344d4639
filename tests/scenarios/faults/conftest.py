"""Fixtures of the fault tests: the same finished run as the whole-run tests have, and a local Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def local_ray(**system: object) -> Iterator[None]:
    """A local Ray of two CPUs, whose workers can import this repository's tests."""
    import logging

    import ray

    root = str(Path(__file__).parents[3])
    with pytest.MonkeyPatch.context() as patched:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patched.delenv(name, raising=False)
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=128 * 2**20,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": root}},
            _system_config=system or None,
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture(scope="module")
def checkpoints(blip_filter: Path, blip_captioner: Path) -> Iterator[dict[str, Path]]:
    """Models that need no torch: what they say follows from the image."""
    from tests.stages.rows import FakeCaptioner, FakeFilter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())
        patch.setattr("capfilt.models.open.open_captioner", lambda *_: FakeCaptioner())
        yield {"filter": blip_filter, "captioner": blip_captioner}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Path:
    """A folder with sources and a finished run; read only."""
    from tests.pipeline.local import plan_of, run, write_data

    folder = tmp_path_factory.mktemp("clean")
    write_data(folder)
    run(plan_of(folder, checkpoints))
    return folder
