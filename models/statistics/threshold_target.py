"""The threshold at which a filter reaches a target, from held-out human pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capfilt.data_contracts.errors import CalibrationError
from capfilt.models.statistics.bootstrap import Floats, image_weights

FEWEST = 10  # human pairs above a threshold, for its precision to mean anything
ROUNDS = 200
UNSEEN = 0.5  # pairs: none among 300 mismatches above a threshold does not mean that there are none


@dataclass(frozen=True)
class ThresholdTarget:
    """What the threshold is for: a share of the matches kept, or of the kept texts that match."""

    figure: Literal["precision", "recall"]
    value: float


class Curve(NamedTuple):
    """Recall and precision of keeping scores at and above each threshold, ascending; shapes (thresholds,)."""

    thresholds: Floats
    recall: Floats
    precision: Floats


class Reached(NamedTuple):
    """A threshold with its 95% interval over images drawn again, and what is reached there."""

    threshold: float
    low: float
    high: float
    recall: float
    precision: float


def curve(
    itm: ArrayLike,
    kinds: ArrayLike,
    shares: Sequence[tuple[str, float]],
    weights: ArrayLike,
    at: ArrayLike | None = None,
) -> Curve:
    """``shares``: how much of the texts to be judged each kind is, the matches first: their prior. Kinds without a
    pair count as never kept. ``itm``, ``kinds`` and ``weights`` have one entry a pair. ``at`` are the thresholds,
    ascending: by default the scores of the matches.
    """
    scores, kind, weight = np.asarray(itm, np.float64), np.asarray(kinds), np.asarray(weights, np.float64)
    thresholds = np.unique(scores[kind == shares[0][0]]) if at is None else np.asarray(at, np.float64)
    kept = []
    for number, (name, share) in enumerate(shares):
        of = kind == name
        kept.append(share * _at_least(scores[of], weight[of], thresholds, UNSEEN if number else 0.0))
    total = np.sum(kept, axis=0)
    precision = np.divide(kept[0], total, out=np.ones_like(total), where=total > 0)
    prior = shares[0][1]
    return Curve(thresholds, kept[0] / prior if prior else np.zeros_like(total), precision)


def _at_least(scores: Floats, weights: Floats, thresholds: Floats, unseen: float) -> Floats:
    """The weighted share of scores at or above each threshold, as if ``unseen`` more had been above and below."""
    if not weights.sum():
        return np.zeros_like(thresholds)
    order = np.argsort(scores)
    above = weights.sum() - np.concatenate([[0.0], np.cumsum(weights[order])])
    some = above[np.searchsorted(scores[order], thresholds, side="left")]
    return np.asarray((np.maximum(some, 0.0) + unseen) / (weights.sum() + 2 * unseen))


def reach(
    target: ThresholdTarget,
    itm: ArrayLike,
    kinds: NDArray[np.str_],
    images: ArrayLike,
    shares: Sequence[tuple[str, float]],
    seed: int,
) -> Reached:
    """The lowest threshold that reaches a precision, the highest that reaches a recall.

    Precision is meant at the prior and in the mixture that ``shares`` give; for a recall they do not matter.
    Where a round of the bootstrap does not reach the target, the highest human score counts for the interval.

    Raises:
        CalibrationError: no threshold reaches it with at least ten human pairs above it.
    """
    own = int((kinds == shares[0][0]).sum())
    found = curve(itm, kinds, shares, np.ones(len(kinds)))
    at = _first(target, found, own)
    if at is None:
        enough = found.recall * own >= FEWEST
        best = int(np.argmax(np.where(enough, found.precision, -1.0)))
        said = (
            f"the best is a precision of {found.precision[best]:.3f} at recall {found.recall[best]:.3f} "
            f"(threshold {found.thresholds[best]:.4f}), where {shares[0][1]:.1%} of the texts match"
            if enough.any()
            else f"{own} human pairs, {FEWEST} are needed above a threshold"
        )
        raise CalibrationError(
            what=f"the filter cannot reach a {target.figure} of {target.value:g}",
            evidence=f"{said}; from {len(np.unique(np.asarray(images)))} calibrate images",
            remedy="ask for less, or make a better filter: more human pairs, more steps, text-edited negatives in "
            "its training (FilterSettings.edits); the report card tells where it is blind",
        )
    rounds = []
    for weights in image_weights(images, seed, ROUNDS):
        drawn = curve(itm, kinds, shares, weights)
        first = _first(target, drawn, own)
        rounds.append(drawn.thresholds[-1 if first is None else first])
    low, high = np.quantile(rounds, (0.025, 0.975))
    return Reached(
        float(found.thresholds[at]),
        float(low),
        float(high),
        float(found.recall[at]),
        float(found.precision[at]),
    )


def _first(target: ThresholdTarget, found: Curve, own: int) -> int | None:
    if target.figure == "recall":
        (places,) = np.nonzero(found.recall >= target.value - 1e-12)
        return int(places[-1]) if len(places) else None
    (places,) = np.nonzero((found.precision >= target.value) & (found.recall * own >= FEWEST))
    return int(places[0]) if len(places) else None
