"""The filter's report card: what is known of it from human pairs, and what that says of the crawl's texts.

From storage alone: the stages `score_held_out`, `score` and `select`. Figures are of test images that the crawl does
not have; only the scaling of probabilities is fitted on the calibrate split. Intervals are 95%, over images drawn
again.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.errors import CalibrationError, UsageError
from capfilt.data_contracts.records import PairKind, Split
from capfilt.models.statistics.bootstrap import Floats, over_images
from capfilt.models.statistics.calibration import calibrate
from capfilt.models.statistics.metrics import ece
from capfilt.models.statistics.mixture import BLIND
from capfilt.models.statistics.roc import roc_auc_over_images
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.filter.evidence import MATCH, HeldOutPairs, held_out_pairs
from capfilt.pipeline.reports.filter.noise import NoiseEstimate
from capfilt.pipeline.reports.filter.warnings import warnings
from capfilt.pipeline.reports.query import files, query
from capfilt.pipeline.reports.stages import figures


def build(ledger: Ledger) -> dict[str, Any] | None:
    """The card as JSON types; ``None`` while no human pair of the test split is scored."""
    pairs = held_out_pairs(ledger)
    test = pairs.of(Split.TEST)
    if not (test.kind == MATCH).any():
        return None
    return _Card(ledger, pairs.of(Split.CALIBRATE), test, int(ledger.record().recipe.get("seed", 0))).build()


def demand(ledger: Ledger) -> dict[str, Any]:
    """The same, or :class:`UsageError` with what is missing."""
    card = build(ledger)
    if card is None:
        raise UsageError(
            what="the run has no test pairs to judge its filter by",
            evidence="its stage `score_held_out` has nothing of them yet"
            if "score_held_out" in ledger.record().fingerprints
            else "the recipe has no `human` source",
            remedy="capfilt resume RUN, or human pairs in the recipe: a tenth of them is the test split",
        )
    return card


@dataclass(frozen=True)
class _Card:
    ledger: Ledger
    calibrate: HeldOutPairs
    test: HeldOutPairs
    seed: int

    @cached_property
    def noise(self) -> NoiseEstimate:
        return NoiseEstimate(self.ledger, self.test, self.used_threshold, self.seed)

    def build(self) -> dict[str, Any]:
        card: dict[str, Any] = {
            "test_images": self.test.images,
            "calibrate_images": self.calibrate.images,
            "auc": {str(kind): auc for kind in PairKind if kind != PairKind.OWN and (auc := self._auc(kind))},
            "calibration": self._calibration(),
            "threshold": self._threshold(),
            "curve": self.noise.curve(),
            "audit": self.noise.audit,
            "crawl": self.noise.texts(),
        }
        card["blind"] = [kind for kind, auc in card["auc"].items() if auc["value"] < BLIND]
        card["warnings"] = list(warnings(card))
        return card

    def _auc(self, kind: PairKind) -> dict[str, Any] | None:
        some = self.test.against(kind)
        if some.own.all():
            return None
        auc = roc_auc_over_images(some.own, some.itm, some.image, self.seed)
        return {**auc._asdict(), "pairs": int((~some.own).sum())}

    def _calibration(self) -> dict[str, Any] | None:
        """Platt scaling fitted on the calibrate split, and the ECE of its probabilities on the test split."""
        mismatched = (PairKind.SHUFFLED, PairKind.HARD)
        own, other = self.calibrate.own, np.isin(self.calibrate.kind, mismatched)
        try:
            images = np.concatenate([self.calibrate.image[own], self.calibrate.image[other]])
            found = calibrate(
                self.calibrate.itm[own], self.calibrate.itm[other], images=images, seed=self.seed
            )
        except CalibrationError:  # too few pairs, or a filter that says nothing: the AUC shows it
            return None
        some = self.test.against(*mismatched)
        return {
            "temperature": found.temperature,
            "bias": found.bias,
            "even_odds": found.threshold,
            "ece_before": self._ece(some, some.itm),
            "ece_after": self._ece(some, found.probability(some.itm)),
        }

    def _ece(self, some: HeldOutPairs, probabilities: Floats) -> dict[str, float]:
        """At even odds of matches and mismatches."""

        def balanced(weights: Floats) -> float:
            sides = np.where(some.own, weights[some.own].sum(), weights[~some.own].sum())
            return ece(some.own, probabilities, weights=weights / np.maximum(sides, 1e-9))

        return over_images(some.image, balanced, self.seed)._asdict()

    @cached_property
    def used_threshold(self) -> float | None:
        """The threshold of the run, from the stage that set it or from what it kept."""
        for stage in ("calibrate", "threshold"):
            if found := figures(self.ledger, stage).get("threshold"):
                return float(found["value"])
        rows = query("SELECT threshold FROM files LIMIT 1", files(self.ledger, "select"))
        return float(rows[0]["threshold"]) if rows else None

    def _threshold(self) -> dict[str, Any] | None:
        """Where it is, how sure that is, and what it lets through of each kind of test pair."""
        if self.used_threshold is None:
            return None
        set_by = figures(self.ledger, "calibrate").get("threshold", {})
        kept = self.test.itm >= self.used_threshold
        passes = {str(kind): self._passing(kind, kept) for kind in PairKind if (self.test.kind == kind).any()}
        return {
            "value": self.used_threshold,
            "low": set_by.get("low"),
            "high": set_by.get("high"),
            "note": set_by.get("note", "given by the recipe"),
            "recall": passes[MATCH],
            "passes": passes,
            "precision": self.noise.precision(self.used_threshold),
        }

    def _passing(self, kind: PairKind, kept: NDArray[np.bool_]) -> dict[str, float]:
        of = self.test.kind == kind

        def share(weights: Floats) -> float:
            total = weights[of].sum()
            return float(weights[of & kept].sum() / total) if total else float("nan")

        return over_images(self.test.image, share, self.seed)._asdict()
