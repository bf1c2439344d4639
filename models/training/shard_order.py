"""The order in which a training goes through its shards: the same for any number of workers.

Every epoch the shards are shuffled, laid in groups of at least ``window`` images, and shuffled whole within a
group. So only the shards of one or two groups are open at a time, and any place of the order can be computed without
the places before it. What that gives up of a full shuffle: two images meet in a batch only when their shards fall
into one group, which is drawn anew every epoch; a set of up to ``window`` images is shuffled fully.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Position(NamedTuple):
    """One image: its shard, its row in it, and how often the training has been through all images before."""

    shard: int
    row: int
    epoch: int


class _Epoch(NamedTuple):
    """Shards in their order, where each group of them begins (in shards), and in places."""

    shards: NDArray[np.int64]
    groups: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """An endless order through shards of ``counts`` images."""

    counts: tuple[int, ...]
    window: int
    seed: int

    @classmethod
    def of(cls, counts: Sequence[int], window: int, seed: int) -> "Order":
        return cls(tuple(counts), window, seed)

    def places(self, first: int, count: int) -> list[Position]:
        """``count`` places from number ``first`` on."""
        size = sum(self.counts)
        return [self._place(*divmod(number, size)) for number in range(first, first + count)]

    def beside(self, place: Position) -> frozenset[int]:
        """The shards of the group that a place lies in."""
        epoch = _epoch(self, place.epoch)
        spot = int(np.flatnonzero(epoch.shards == place.shard)[0])
        group = int(np.searchsorted(epoch.groups, spot, "right")) - 1
        return frozenset(epoch.shards[epoch.groups[group] : epoch.groups[group + 1]].tolist())

    def _place(self, number: int, within: int) -> Position:
        epoch = _epoch(self, number)
        group = int(np.searchsorted(epoch.starts, within, "right")) - 1
        shard, row = _group(self, number, group)[within - int(epoch.starts[group])].tolist()
        return Position(shard, row, number)


@lru_cache(maxsize=16)
def _epoch(order: Order, number: int) -> _Epoch:
    counts = np.array(order.counts, dtype=np.int64)
    shards = np.random.default_rng((order.seed, number)).permutation(len(counts))
    groups, held = [0], 0
    for spot, count in enumerate(counts[shards].tolist()):
        if held >= order.window:
            groups.append(spot)
            held = 0
        held += count
    groups.append(len(counts))
    before = np.concatenate([[0], np.cumsum(counts[shards])])
    return _Epoch(shards, np.array(groups), before[groups[:-1]])


@lru_cache(maxsize=16)
def _group(order: Order, number: int, group: int) -> NDArray[np.int64]:
    """(images, 2): shard and row of every place of a group."""
    epoch = _epoch(order, number)
    members = epoch.shards[epoch.groups[group] : epoch.groups[group + 1]]
    rows = [np.stack([np.full(order.counts[s], s), np.arange(order.counts[s])], 1) for s in members]
    return np.random.default_rng((order.seed, number, group)).permutation(np.concatenate(rows))
