"""A row that takes all memory: Ray's memory monitor, or the kernel, kills its worker."""

from pathlib import Path

import pytest

from capfilt.pipeline.cluster.scheduler import WorkerPool
from capfilt.pipeline.planning.placement import PATIENCE
from tests.scenarios.faults.conftest import local_ray
from tests.scenarios.faults.test_poison import FINE, POISON_LIMIT, Field

ROOM = 2 * 2**30


@pytest.mark.thorough
@pytest.mark.ci
def test_a_row_that_eats_all_memory_is_quarantined_and_its_neighbours_stay(tmp_path: Path):
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory = {name: int(kilobytes) * 1024 for name, kilobytes, *_ in lines}
    taken = memory["MemTotal:"] - memory["MemAvailable:"]
    threshold = min(0.95, (taken + ROOM) / memory["MemTotal:"])
    with local_ray(memory_usage_threshold=threshold, memory_monitor_refresh_ms=100):
        pool = WorkerPool(str(tmp_path), POISON_LIMIT, PATIENCE)
        field = Field(tmp_path / "run", tmp_path / "diary", pool)
        field.handle({1: ["eats-a"]}, shards=3)
        pool.close()
    (reject,) = field.rejects()
    assert (reject["name"], reject["reason"]) == ("eats-a", "poison")
    assert "memory" in reject["detail"]
    assert len(field.kept()) == 3 * FINE
