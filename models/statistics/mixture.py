"""What a crawl's scores are made of: how many of its texts match, estimated without a single label from it.

The scores of held-out human pairs show how the filter scores a match, and each kind of mismatch. A crawl is some
mixture of them, and its scores tell in which shares: expectation-maximisation of Saerens, Latinne and
Decaestecker (2002), which corrects a classifier's outputs for new priors, with one class for each kind of
mismatch, since a crawl has other mismatches than a test set has, and with histograms as densities, since the
scores of a matching head are no bell curves.

What it cannot see: a mismatch that the filter scores as it scores matches (leave such kinds out, and say so), and
texts unlike anything in the held-out set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capfilt.models.statistics.bootstrap import Floats, image_weights
from capfilt.models.statistics.roc import roc_auc

ITERATIONS, ENOUGH = 1000, 1e-6
PSEUDO = 1.0  # a pair more, spread over all bins, so that no score is impossible
BLIND = 0.7  # ROC AUC below which a kind of mismatch cannot be told from matches
FEWEST = 10  # pairs of a kind, for a density
PAIRS_A_BIN, FEWEST_BINS, MOST_BINS = 16, 6, 40


@dataclass(frozen=True)
class Bins:
    """Score intervals: bin b holds edges[b-1] <= score < edges[b]."""

    edges: tuple[float, ...]

    @classmethod
    def of(cls, scores: ArrayLike, matches: int, *also: float) -> "Bins":
        """With about as many of these scores in each; ``also`` are edges to have, such as a threshold."""
        bins = int(np.clip(matches // PAIRS_A_BIN, FEWEST_BINS, MOST_BINS))
        inner = np.quantile(np.asarray(scores, np.float64), np.linspace(0, 1, bins + 1)[1:-1])
        return cls(tuple(np.unique([*inner, *also]).tolist()))

    def count(self, scores: ArrayLike, weights: ArrayLike | None = None) -> Floats:
        """How many scores each bin has, shape (bins,), float64."""
        which = np.searchsorted(self.edges, np.asarray(scores, np.float64), side="right")
        return np.bincount(which, weights, len(self.edges) + 1).astype(np.float64)

    def above(self, threshold: float) -> NDArray[np.bool_]:
        """The bins at and above an edge."""
        return np.array([-np.inf, *self.edges]) >= threshold


@dataclass(frozen=True)
class Mixture:
    """Shares of each kind in a crawl, the match first, and what a score says of a text; for rounds of a bootstrap
    with a leading axis.

    ``weights`` (..., kinds) sum to one; ``match`` (..., bins) is the probability of a match by bin.
    """

    weights: Floats
    match: Floats

    @property
    def prior(self) -> Floats:
        """The share of matches, shape (...)."""
        return np.asarray(self.weights[..., 0])

    def noise(self, counts: Floats) -> Floats:
        """The expected share of mismatches among texts with these counts by bin, shape (...); NaN for none."""
        total = counts.sum()
        return np.asarray(1 - self.match @ counts / total if total else np.full(self.prior.shape, np.nan))


def fit(held: Floats, crawl: Floats) -> Mixture:
    """``held`` (..., kinds, bins): counts of held-out pairs, matches first; ``crawl`` (bins,): the crawl's texts."""
    counts = held + PSEUDO / len(crawl)
    density = counts / counts.sum(-1, keepdims=True)
    weights = np.full(held.shape[:-1], 1 / held.shape[-2])
    for _ in range(ITERATIONS if crawl.sum() else 0):
        joint = weights[..., None] * density
        new = (joint / joint.sum(-2, keepdims=True)) @ crawl / crawl.sum()
        done = np.abs(new - weights).max() < ENOUGH
        weights = new
        if done:
            break
    joint = weights[..., None] * density
    return Mixture(weights, joint[..., 0, :] / joint.sum(-2))


@dataclass(frozen=True)
class HeldOutScores:
    """Held-out human pairs as the densities of a mixture: kinds that the filter tells from a match, the match first.

    ``blind`` are the others. ``itm``, ``kind`` and ``image`` have one entry for each pair of the former.
    """

    bins: Bins
    kinds: tuple[str, ...]
    blind: tuple[str, ...]
    itm: Floats
    kind: NDArray[np.str_]
    image: NDArray[np.object_]

    @classmethod
    def of(
        cls, itm: ArrayLike, kind: ArrayLike, image: ArrayLike, match: str, *also: float
    ) -> "HeldOutScores":
        """``match`` is the kind that matches, ``also`` are thresholds to have as edges of bins."""
        scores, names, images = np.asarray(itm, np.float64), np.asarray(kind, dtype=str), np.asarray(image)
        own = names == match
        sees: list[str] = []
        blind: list[str] = []
        for other in dict.fromkeys(names[~own].tolist()):
            both = own | (names == other)
            if (names == other).sum() >= FEWEST:
                auc = roc_auc(own[both], scores[both])
                (sees if auc >= BLIND else blind).append(other)
        kinds = (match, *sorted(sees))
        use = np.isin(names, kinds)
        bins = Bins.of(scores[use], int(own.sum()), *also)
        return cls(bins, kinds, tuple(sorted(blind)), scores[use], names[use], images[use])

    def fit(self, crawl: Floats) -> Mixture:
        """The mixture that the crawl's counts by bin are."""
        return fit(self._counts(np.ones(len(self.itm))), crawl)

    def redrawn(self, crawl: Floats, seed: int, rounds: int) -> Mixture:
        """The same with images drawn again: a bootstrap, along a leading axis of ``rounds``."""
        return fit(
            np.stack([self._counts(weights) for weights in image_weights(self.image, seed, rounds)]), crawl
        )

    def _counts(self, weights: Floats) -> Floats:
        """Shape (kinds, bins)."""
        own = [self.kind == one for one in self.kinds]
        return np.stack([self.bins.count(self.itm[of], weights[of]) for of in own])
