"""The area under the ROC curve of a filter's scores, and how sure it is."""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capfilt.models.statistics.bootstrap import ROUNDS, Floats, Interval, over_images


def roc_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve, ties counting half; NaN without positives or negatives. All of shape (n,)."""
    truth = np.asarray(labels, dtype=bool)
    weight = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    levels, level = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)
    return _auc(truth, level, len(levels), weight)


def roc_auc_over_images(
    labels: ArrayLike, scores: ArrayLike, images: ArrayLike, seed: int, rounds: int = ROUNDS
) -> Interval:
    """The same with its 95% interval over images drawn again; ``images`` names the image of a pair, shape (n,).

    :class:`ValueError` unless both labels occur and every score is finite.
    """
    truth, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or truth.all() or not truth.any() or not np.isfinite(values).all():
        raise ValueError("an AUC needs positives, negatives and a finite score for each")
    levels, level = np.unique(values, return_inverse=True)
    return over_images(images, partial(_auc, truth, level, len(levels)), seed, rounds)


def _auc(truth: NDArray[np.bool_], level: NDArray[np.int64], levels: int, weights: Floats) -> float:
    """From integer score levels, which do not change from round to round."""
    positives = np.bincount(level[truth], weights[truth], levels)
    negatives = np.bincount(level[~truth], weights[~truth], levels)
    total = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - 0.5 * negatives
    return float((positives * below).sum() / total) if total else float("nan")
