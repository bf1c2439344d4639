"""Stages in an order in which they can run, with what each reads. Loads neither Ray nor any model's library."""

import difflib
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.fingerprint import fingerprint, identity_of
from capfilt.stages.stage import Stage

if TYPE_CHECKING:
    from capfilt.pipeline.planning.schema import Recipe


@dataclass(frozen=True)
class Node:
    """A stage in its place: the stages whose parts it reads, and those whose models it needs."""

    name: str
    stage: Stage
    upstream: tuple[str, ...]
    fingerprint: str
    identity: Mapping[str, object] = field(repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.upstream, *self.stage.trained)))


class Graph:
    """The stages of a run. They enter it in an order in which they can run."""

    def __init__(self, recipe: "Recipe") -> None:
        self.recipe = recipe
        self.nodes: dict[str, Node] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def demand(self, name: str, given: str) -> None:
        """Raises :class:`RecipeError` where there is no stage of this name; ``given`` says where it was named."""
        if name not in self.nodes:
            near = difflib.get_close_matches(name, self.nodes, 1, 0.0)
            raise RecipeError(
                what=f"{given}: the plan has no such stage",
                evidence=f"its stages: {', '.join(self.nodes)}",
                remedy=f"did you mean {near[0]!r}?",
            )

    def add(self, name: str, stage: Stage, *upstream: str) -> None:
        identity = {
            "stage": identity_of(stage, name),
            "reads": {record.__name__: Contract(record).identity for record in stage.consumes},
            "writes": Contract(stage.produces).identity,
            "with": {name: _version(name) for name in stage.libraries},
        }
        above = {need: self.nodes[need].fingerprint for need in (*upstream, *stage.trained)}
        self.nodes[name] = Node(name, stage, upstream, fingerprint({**identity, "after": above}), identity)


def _version(distribution: str) -> str:
    """Without the local part, which says for which hardware it was built."""
    return importlib.metadata.version(distribution).partition("+")[0]
