"""What the nodes of a cluster have, and what this run's workers take of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from capfilt.data_contracts.errors import StageError
from capfilt.pipeline.planning.placement import Demand, Resources


@dataclass(frozen=True)
class ClusterNode:
    """A node that is alive. ``has`` are its resources when it is idle, by Ray's names."""

    has: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""

    def holds(self, needs: Resources) -> int:
        """How many such workers have room on it when it is idle; labels count."""
        if any(self.labels.get(name) != value for name, value in needs.labels):
            return 0
        return int(
            min((self.has.get(name, 0.0) / many + 1e-9 for name, many in needs.asked.items()), default=1e9)
        )


def alive() -> dict[str, ClusterNode]:
    """Every node that is alive, by its id."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: ClusterNode(node["Resources"], node["Labels"], node["NodeManagerAddress"])
        for node in nodes
        if node["Alive"]
    }


def free() -> str:
    """What the cluster has left, in words."""
    has, left = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return ", ".join(
        f"{left.get(kind, 0.0):g} of {has[kind]:g} {kind}s are free"
        for kind in ("CPU", "GPU")
        if has.get(kind)
    )


class Capacity:
    """What ``nodes`` have, less what is ``taken`` by workers and the ``threads`` in use on some of them."""

    def __init__(
        self,
        nodes: Mapping[str, ClusterNode],
        taken: Iterable[Resources] = (),
        threads: Iterable[tuple[str, int]] = (),
    ) -> None:
        self.nodes = nodes
        self._has: Counter[str] = Counter()
        for node in self.nodes.values():
            self._has.update(node.has)
        self._taken: Counter[str] = Counter()
        for needs in taken:
            self._taken.update(needs.asked)
        self._threads = Counter(dict.fromkeys(self.nodes, 0))
        for name, count in threads:
            self._threads[name] += count
        self._reserved: dict[str, str] = {}

    def most(self, resource: str) -> float:
        """The most that one node has of a resource, by Ray's name for it."""
        return max((node.has.get(resource, 0.0) for node in self.nodes.values()), default=0.0)

    def lacking(self, demands: Iterable[Demand]) -> StageError | None:
        """What the nodes have no room for when they are idle, as an error to raise."""
        short = [(one, why) for one in demands if (why := self._why_not(one.needs, one.workers))]
        if not short:
            return None
        first, why = short[0]
        each = f"{first.needs}" if first.workers == 1 else f"{first.workers} workers with {first.needs} each"
        return StageError(
            what=f"the cluster has no room for {', '.join(one.stage for one, _ in short)}: {each}",
            evidence=why,
            remedy="ask for less in the recipe's `placement`, or add nodes; for a cluster that grows when it is "
            "asked, give it more time with --wait-nodes SECONDS",
        )

    def _why_not(self, needs: Resources, workers: int) -> str:
        """Empty when there is room."""
        if not self.nodes:
            return "no node is alive any more"
        places = sum(node.holds(needs) for node in self.nodes.values())
        if places >= workers:
            return ""
        labelled = [
            node
            for node in self.nodes.values()
            if not needs.labels or node.holds(Resources(0, labels=needs.labels))
        ]
        if not labelled:
            return f"none of the {len(self.nodes)} nodes has " + ", ".join(
                f"{k}={v}" for k, v in needs.labels
            )
        if places:
            return f"the {len(self.nodes)} nodes together have room for {places}"
        largest = {
            name: max(node.has.get(name, 0.0) for node in labelled) for name in ("CPU", "GPU", *needs.asked)
        }
        return "the largest have " + ", ".join(
            f"{amount / 1e9:g} GB of memory" if name == "memory" else f"{amount:g} {name}"
            for name, amount in largest.items()
        )

    def free(self, node: str, threads: int, label: str) -> bool:
        """Whether the node has so many threads left for the task of this label, and is not kept for another one."""
        if node not in self.nodes or self._reserved.get(node, label) != label:
            return False
        return self._threads[node] == 0 or self._threads[node] + threads <= self.nodes[node].has.get(
            "CPU", 0.0
        )

    def take(self, node: str, threads: int) -> None:
        self._threads[node] += threads

    def reserve(self, label: str, nodes: Iterable[str]) -> None:
        """Keep the node with the fewest threads in use for a task, unless one is kept for it already."""
        candidates = [node for node in nodes if node in self.nodes and node not in self._reserved]
        if candidates and label not in self._reserved.values():
            self._reserved[min(candidates, key=lambda node: self._threads[node])] = label

    def fits(self, needs: Resources) -> bool:
        """Whether the cluster has room for one more such worker beside those of this run."""
        return all(self._taken[name] + many <= self._has[name] for name, many in needs.asked.items())

    def give_back(self, needs: Resources) -> None:
        self._taken.subtract(needs.asked)
