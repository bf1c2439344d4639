"""How the stages and shards that were measured differ from those that are planned."""

from collections.abc import Mapping
from typing import Any

from capfilt.data_contracts.fingerprint import first_difference
from capfilt.pipeline.estimate.throughput import Records
from capfilt.pipeline.planning.graph import Graph, Node
from capfilt.pipeline.planning.placement import PlacementKeys
from capfilt.stages.stage import CollectiveStage

OTHER = ("cpus", "gpus", "threads", "batch", "fuse")  # of a placement, what a rate depends on

LARGER = 4.0  # times the rows that a measured shard has: then its fixed cost is told to weigh


def other_settings(plan: Graph, node: Node, records: Records) -> list[str]:
    """What differs between the stage that was measured and the one that is planned."""
    said = []
    given = plan.recipe.placement.get(node.name, PlacementKeys())
    then = PlacementKeys.model_validate(records.recipe.get("placement", {}).get(node.name, {}))
    keys = (*OTHER, "actors") if isinstance(node.stage, CollectiveStage) else OTHER
    if other := [key for key in keys if getattr(given, key) != getattr(then, key)]:
        pairs = ", ".join(f"{key} {getattr(then, key)}, now {getattr(given, key)}" for key in other)
        said.append(f"{node.name} was measured with another placement, and its rate is that one's: {pairs}")
    old, new = (
        _settings(identity.get("stage")) for identity in (records.stages.get(node.name, {}), node.identity)
    )
    if difference := first_difference(old, new):
        where, before, now = difference
        said.append(f"{node.name} was measured with other settings: {where} was {before!r}, now {now!r}")
    return said


def small_shards(listed: Mapping[str, int], planned: float) -> list[str]:
    """Whether the shards that were measured, by their rows, are much smaller than those of ``planned`` rows."""
    if not listed or planned < LARGER * max(listed.values()):
        return []
    return [
        f"measured on shards of {max(listed.values()):,} rows, where this recipe's hold "
        f"{planned:,.0f}: a shard's fixed cost is in the rates, which are too high"
    ]


def _settings(identity: Any) -> Any:
    """A stage's identity without what costs nothing: which source it reads, which seed it draws with."""
    if isinstance(identity, Mapping):
        return {key: _settings(value) for key, value in identity.items() if key != "seed"}
    if isinstance(identity, list):
        return [_settings(one) for one in identity if not _is_source(one)]
    return identity


def _is_source(identity: Any) -> bool:
    return isinstance(identity, Mapping) and identity.get("is") == "SourceSpec"
