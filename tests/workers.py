"""Which tests start Ray and which are slow without it, and how the workers of ``pytest -n 2`` share the tests.

Two Rays that start at the same moment take each other's ports: one worker runs all tests that start one. It begins
with them, since they take longest and wait a lot, while the other workers run the rest module by module, so that a
module's fixtures are made once.
"""

from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest

RAY = ("tests/scenarios/", "tests/benchmarks/test_overhead.py", "tests/docker/test_entrypoint.py")
NO_RAY = ("tests/scenarios/faults/test_damage_matrix.py", "tests/scenarios/faults/test_failpoints.py")
SLOW = (  # the rest that takes more than a few seconds: real trainings, real sizes, whole runs in this process
    "tests/models/engine/test_base.py",
    "tests/models/training/test_distributed.py",
    "tests/models/training/test_drills.py",
    "tests/models/training/test_jobs.py",
    "tests/pipeline/ad_hoc/test_images.py",
    "tests/pipeline/api/test_python_page.py",
    "tests/pipeline/api/test_run.py",
    "tests/pipeline/api/test_runs.py",
    "tests/pipeline/demo/test_picture.py",
    "tests/pipeline/execution/test_retry.py",
    "tests/pipeline/execution/test_runner.py",
    "tests/pipeline/planning/test_parent_run.py",
    "tests/pipeline/reports/",
    "tests/pipeline/test_search.py",
    "tests/stages/ingest/fetch/test_opener.py",
    "tests/stages/ingest/fetch/test_shard.py",
    "tests/stages/ingest/sources/test_img2dataset.py",
    "tests/stages/ingest/sources/test_join.py",
    "tests/stages/ingest/test_preflight.py",
)


def starts_ray(nodeid: str) -> bool:
    """Whether the test starts Ray, or belongs to a module that does."""
    return nodeid.startswith(RAY) and not nodeid.startswith(NO_RAY)


class RayOnOneWorker(LoadScopeScheduling):
    """Hands out groups of tests in the order of the collection: what starts Ray, then every other module."""

    def __init__(self, config: "pytest.Config", log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if starts_ray(nodeid) else nodeid.partition("::")[0]
