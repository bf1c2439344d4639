"""What has room where: plain arithmetic over what nodes say they have."""

import pytest

from capfilt.pipeline.cluster.capacity import Capacity, ClusterNode
from capfilt.pipeline.planning.placement import Demand, PlacementKeys, Resources

CPU = ClusterNode({"CPU": 8.0, "memory": 32e9})
GPU = ClusterNode({"CPU": 4.0, "GPU": 2.0, "memory": 16e9, "disk": 1.0}, {"zone": "a", "type": "A100"})


@pytest.mark.parametrize(
    ("node", "needs", "workers"),
    [
        (CPU, Resources(3.0), 2),
        (CPU, Resources(0.1), 80),
        (CPU, Resources(1.0, 1.0), 0),
        (CPU, Resources(1.0, memory=10 * 10**9), 3),
        (GPU, Resources(1.0, 0.5), 4),
        (GPU, Resources(1.0, custom=(("disk", 1.0),)), 1),
        (CPU, Resources(1.0, custom=(("disk", 1.0),)), 0),
        (GPU, Resources(1.0, labels=(("zone", "a"),)), 4),
        (GPU, Resources(1.0, labels=(("zone", "b"),)), 0),
        (CPU, Resources(1.0, labels=(("zone", "a"),)), 0),
    ],
)
def test_how_many_workers_a_node_holds(node: ClusterNode, needs: Resources, workers: int) -> None:
    assert node.holds(needs) == workers


@pytest.mark.parametrize(
    ("needs", "workers", "said"),
    [
        (Resources(4.0), 3, ""),
        (Resources(4.0), 4, "the 2 nodes together have room for 3"),
        (Resources(9.0), 1, "the largest have 8 CPU, 2 GPU"),
        (Resources(1.0, memory=64 * 10**9), 1, "the largest have 8 CPU, 2 GPU, 32 GB of memory"),
        (Resources(1.0, labels=(("zone", "b"),)), 1, "none of the 2 nodes has zone=b"),
        (Resources(5.0, labels=(("zone", "a"),)), 1, "the largest have 4 CPU, 2 GPU"),
    ],
)
def test_why_there_is_no_room(needs: Resources, workers: int, said: str) -> None:
    lacking = Capacity({"one": CPU, "two": GPU}).lacking([Demand("score", needs, workers)])
    assert (lacking.evidence if lacking else "") == said


def test_a_cluster_without_nodes_says_so() -> None:
    lacking = Capacity({}).lacking([Demand("score", Resources(), 2), Demand("embed", Resources(), 1)])
    assert lacking is not None
    assert lacking.what == "the cluster has no room for score, embed: 2 workers with 1 CPUs and 0 GPUs each"
    assert lacking.evidence == "no node is alive any more"


def test_what_workers_took_is_missing_until_it_is_given_back() -> None:
    capacity = Capacity({"one": CPU}, [Resources(4.0), Resources(3.0)])
    assert capacity.fits(Resources(1.0))
    assert not capacity.fits(Resources(2.0))
    capacity.give_back(Resources(3.0))
    assert capacity.fits(Resources(4.0))


def test_threads_in_use_and_a_node_that_is_kept_for_a_task() -> None:
    capacity = Capacity({"one": CPU, "two": GPU}, threads=[("one", 6)])
    assert capacity.free("one", 2, "score")
    assert not capacity.free("one", 3, "score")
    assert capacity.free("two", 64, "train")  # on an idle node a task may use more threads than there are
    capacity.reserve("train", ["one", "two"])
    assert capacity.free("two", 4, "train")
    assert not capacity.free("two", 1, "score")
    assert not capacity.free("gone", 1, "score")


def test_a_worker_takes_what_the_recipe_says_and_a_gpu_by_default_only_where_it_does_not() -> None:
    keys = PlacementKeys(cpus=2, memory="8GB", resources={"disk": 1}, labels={"zone": "a"})  # type: ignore[arg-type]
    assert keys.needs(1.0).asked == {"CPU": 2.0, "GPU": 1.0, "memory": 8e9, "disk": 1.0}
    assert keys.needs(1.0).options["label_selector"] == {"zone": "a"}
    assert PlacementKeys(gpus=0).needs(1.0).gpus == 0.0
    assert PlacementKeys(gpus=0.25).needs(1.0).gpus == 0.25
    with pytest.raises(ValueError, match="min_actors 3 is more than actors 2"):
        PlacementKeys(actors=2, min_actors=3)
