"""Which tests start Ray, and how the workers of ``pytest -n 2`` share the tests.

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
