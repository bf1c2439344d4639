"""Set the threshold from human pairs that no training saw. No model runs: another target is seconds away."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import CalibrationError
from capfilt.data_contracts.records import HeldOutScore, Metric, PairKind, Record, Score, Split
from capfilt.models.statistics.mixture import HeldOutScores
from capfilt.models.statistics.roc import roc_auc
from capfilt.models.statistics.threshold_target import ThresholdTarget, reach
from capfilt.stages.stage import GlobalStage, Rows, Site, StageInput

if TYPE_CHECKING:
    from capfilt.models.statistics.calibration import Calibration

MINIMUM = 20
MISMATCHES = (PairKind.SHUFFLED, PairKind.HARD)


@dataclass(frozen=True)
class Calibrate(GlobalStage):
    """The figure `threshold`: where match and mismatch are even, or where a ``target`` is reached.

    Even odds are those of Platt scaling on the calibrate split. Half of the mismatches are shuffled, half are what
    ITC finds hardest, since a crawl has both.

    A *recall* is the share of human pairs that are kept. A *precision* is the share of matches among all texts of the
    crawl, web and synthetic, that reach the threshold: at the prior of matches and in the mixture of mismatches that
    the crawl's own scores tell (:mod:`capfilt.models.statistics.mixture`), so it waits for them. Kinds of mismatch to
    which the filter is blind are not in it: the report card names them.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HeldOutScore, Score)
    produces: ClassVar[type[Record]] = Metric
    libraries: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    unit: ClassVar[str] = "figure"

    seed: int
    target: ThresholdTarget | None = None

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from capfilt.models.statistics.calibration import calibrate

        pairs = pa.concat_tables(inputs.parts(HeldOutScore))
        pairs = pairs.filter(
            pa.array([split == Split.CALIBRATE for split in pairs["split"].to_pylist()], pa.bool_())
        )
        kinds = np.array(pairs["kind"].to_pylist(), dtype=str)
        itm = pairs["itm"].to_numpy()
        images = pairs["image_id"].to_numpy(zero_copy_only=False)
        count = len(np.unique(images))
        if count < MINIMUM:
            raise CalibrationError(
                what="the human set is too small to set a threshold from",
                evidence=f"{count} images in its calibrate split (a tenth), needed: {MINIMUM}",
                remedy=f"bring {15 * MINIMUM} human images or more, or set SelectPairs.threshold to a number",
            )
        own, mismatched = kinds == PairKind.OWN, np.isin(kinds, MISMATCHES)
        try:
            found = calibrate(
                itm[own],
                itm[mismatched],
                images=np.concatenate([images[own], images[mismatched]]),
                minimum=MINIMUM,
                seed=self.seed,
            )
        except CalibrationError as error:
            evidence = "; ".join([error.evidence, *_aucs(itm, kinds)])
            raise CalibrationError(what=error.what, evidence=evidence, remedy=error.remedy) from error
        figures = [*self._threshold(found, inputs, itm, kinds, images), *_platt(found)]
        yield Rows(Contract(Metric).table(figures), units=len(figures))

    def _threshold(
        self, found: "Calibration", inputs: StageInput, itm: np.ndarray, kinds: np.ndarray, images: np.ndarray
    ) -> Iterator[Metric]:
        of = f"from {len(np.unique(images))} calibrate images"
        if self.target is None:
            pairs = found.positives + found.negatives
            note = f"ITM probability at even odds, {of}"
            yield Metric(name="threshold", value=found.threshold, count=pairs, note=note)
            return
        shares = [(str(PairKind.OWN), 1.0)]
        asked = f"{self.target.figure} {self.target.value:g}"
        if self.target.figure == "precision":
            held = HeldOutScores.of(itm, kinds, images, PairKind.OWN)
            crawl = held.bins.count([])
            for part in inputs.parts(Score, ["itm"]):
                crawl += held.bins.count(part["itm"].to_numpy())
            shares = list(zip(held.kinds, held.fit(crawl).weights.tolist(), strict=True))
            asked += f" where {shares[0][1]:.1%} of the crawl's texts match"
            note = "estimated share of matches among the crawl's texts"
            yield Metric(name="prior", value=shares[0][1], count=len(kinds), note=note)
        reached = reach(self.target, itm, kinds, images, shares, self.seed)
        yield Metric(
            name="threshold",
            value=reached.threshold,
            low=reached.low,
            high=reached.high,
            count=len(kinds),
            note=f"ITM probability for {asked}, {of}",
        )
        note = "of human pairs, on the pairs of the fit"
        yield Metric(name="recall", value=reached.recall, count=len(kinds), note=note)
        if self.target.figure == "precision":
            note = "on the pairs of the fit"
            yield Metric(name="precision", value=reached.precision, count=len(kinds), note=note)


def _aucs(itm: np.ndarray, kinds: np.ndarray) -> Iterator[str]:
    """How well each kind of mismatch is told apart: a weak filter fails at what ITC finds hardest first."""
    for kind in MISMATCHES:
        if (kinds == kind).any():
            both = np.isin(kinds, (PairKind.OWN, kind))
            yield f"AUC {roc_auc(kinds[both] == PairKind.OWN, itm[both]):.3f} against {kind} ones"


def _platt(found: "Calibration") -> Iterator[Metric]:
    count = found.positives + found.negatives
    yield Metric(name="temperature", value=found.temperature, count=count)
    yield Metric(name="bias", value=found.bias, count=count)
    yield Metric(
        name="auc",
        value=found.auc,
        low=found.auc_low,
        high=found.auc_high,
        count=count,
        note="on the pairs of the fit: the honest figure is on the test split",
    )
