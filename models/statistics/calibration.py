"""From a filter's raw scores to a threshold with a meaning.

BLIP "simply sets 0.5", but its matching head is trained on one match for two mismatches, and hard ones, so
the raw 0.5 is not even odds. Platt scaling on held-out human pairs against mismatched ones puts that right:
logistic regression of the label on the logit of the ITM probability, classes weighted to a prior of one half.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from capfilt.data_contracts.errors import CalibrationError
from capfilt.models.statistics.metrics import ece
from capfilt.models.statistics.roc import roc_auc_over_images

Floats = NDArray[np.float64]
# A float32 probability rounds to 0 or 1 not far beyond; one such score must not carry the whole fit.
_CLIP = 1e-7
_SAME = 1e-3  # logits that differ by less than this all say the same


@dataclass(frozen=True)
class Calibration:
    """p(match) = sigmoid(logit(itm) / temperature + bias) when matches and mismatches are equally likely.

    ``threshold`` is the raw ITM probability at which that is one half. ECE is measured on the pairs of the
    fit, weighted to the same prior; the honest figure is taken on the test split.
    """

    temperature: float
    bias: float
    threshold: float
    prior: float
    auc: float
    auc_low: float
    auc_high: float
    ece_before: float
    ece_after: float
    positives: int
    negatives: int

    def probability(self, itm: ArrayLike) -> Floats:
        """Calibrated probabilities of raw ITM probabilities, same shape, float64."""
        return _sigmoid(_logit(itm) / self.temperature + self.bias)


def calibrate(
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    images: ArrayLike | None = None,
    minimum: int = 20,
    seed: int = 0,
) -> Calibration:
    """Fit on the raw ITM probabilities of human pairs and of mismatched pairs, each shape (n,).

    ``images`` names the image of each, of the human pairs first: the interval of the AUC is over them; without it
    every pair counts as one of an image of its own.

    Raises :class:`CalibrationError` for fewer than ``minimum`` pairs of a kind, for a filter that gives the
    same score to everything or ranks mismatches first; :class:`ValueError` for scores outside [0, 1].
    """
    matched, mismatched = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    scores = np.concatenate([matched, mismatched])
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("ITM probabilities must lie in [0, 1]")
    for count, kind in ((len(matched), "human"), (len(mismatched), "mismatched")):
        if count < minimum:
            raise CalibrationError(
                what="there are too few human pairs to set a threshold from",
                evidence=f"{count} {kind} pairs in the calibrate split, at least {minimum} are needed",
                remedy="give more human pairs (a tenth calibrates), or set SelectPairs.threshold to a number",
            )
    logits = _logit(scores)
    if np.ptp(logits) < _SAME:
        raise CalibrationError(
            what="the filter gives the same score to everything",
            evidence=f"{len(scores)} pairs, all scored {scores.mean():.6g}",
            remedy="train the filter longer or on more pairs, or give a filter checkpoint that works",
        )
    labels = np.repeat([1, 0], [len(matched), len(mismatched)])
    auc = roc_auc_over_images(labels, scores, np.arange(len(scores)) if images is None else images, seed)
    slope, bias = _platt(logits, labels)
    if slope <= 0 or auc.value <= 0.5:
        raise CalibrationError(
            what="the filter does not score human pairs above mismatched ones",
            evidence=f"AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}) on {len(scores)} pairs",
            remedy="check that the human captions fit their images, bring more of them, or give a filter "
            "checkpoint that works; a fraction to keep as SelectPairs.threshold needs no even odds, only the order",
        )
    even = np.where(labels == 1, 0.5 / len(matched), 0.5 / len(mismatched))
    return Calibration(
        temperature=1 / slope,
        bias=bias,
        threshold=float(_sigmoid(np.asarray(-bias / slope))),
        prior=0.5,
        auc=auc.value,
        auc_low=auc.low,
        auc_high=auc.high,
        ece_before=ece(labels, scores, weights=even),
        ece_after=ece(labels, _sigmoid(slope * logits + bias), weights=even),
        positives=len(matched),
        negatives=len(mismatched),
    )


def _platt(logits: Floats, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Slope and bias. Standardised and with sklearn's ridge, so separable scores get a finite slope."""
    # Seconds, which a command that only looks need not wait.
    from sklearn.linear_model import LogisticRegression

    centre, spread = logits.mean(), logits.std()
    fit = LogisticRegression(C=1.0, class_weight="balanced").fit(
        ((logits - centre) / spread)[:, None], labels
    )
    slope = float(fit.coef_[0, 0] / spread)
    return slope, float(fit.intercept_[0] - slope * centre)


def _logit(probabilities: ArrayLike) -> Floats:
    clipped = np.clip(np.asarray(probabilities, np.float64), _CLIP, 1 - _CLIP)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))
