"""Connected groups: union-find in arrays. The smallest number of a group is its root."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class UnionFind:
    """``count`` members, each alone at first. What groups come out does not depend on the order of the unions."""

    def __init__(self, count: int) -> None:
        self._above: Numbers = np.arange(count)

    def union(self, one: Numbers, other: Numbers) -> None:
        """Join the groups of ``one[i]`` and ``other[i]``, for every i."""
        while len(one):
            one, other = self.roots(one), self.roots(other)
            apart = one != other
            one, other = one[apart], other[apart]
            np.minimum.at(self._above, np.maximum(one, other), np.minimum(one, other))

    def roots(self, members: Numbers) -> Numbers:
        """The root of each member's group."""
        found = self._above[members]
        while not np.array_equal(higher := self._above[found], found):
            found = higher
        self._above[members] = found
        return found

    def all(self) -> Numbers:
        """The root of every member, in order."""
        return self.roots(np.arange(len(self._above)))
