"""Set the threshold from human pairs that no training saw."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_contracts.contract import Contract
from data_contracts.errors import CalibrationError
from data_contracts.records import HumanPicture, Metric, Record, Split
from models.protocols import FLOAT32, Inference
from stages.held_out import held_out, judge
from stages.stage import MODEL_LIBRARIES, GlobalStage, ModelRef, Rows, Site, StageInput

MINIMUM = 20


@dataclass(frozen=True)
class Calibrate(GlobalStage):
    """Platt scaling on the calibrate split; the figure `threshold` is where match and mismatch are even.

    Half of the mismatches are shuffled, half are what ITC finds hardest, since a crawl has both.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture,)
    produces: ClassVar[type[Record]] = Metric
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "figure"

    filter: ModelRef
    seed: int
    inference: Inference = FLOAT32

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from models.calibration import calibrate
        from models.open import open_filter
        from models.threads import use_threads

        use_threads(site.threads)
        pairs = held_out(inputs, Split.CALIBRATE)
        if len(pairs.pictures) < MINIMUM:
            raise CalibrationError(
                what="the human set is too small to set a threshold from",
                evidence=f"{len(pairs.pictures)} images in its calibrate split (a tenth), needed: {MINIMUM}",
                remedy=f"bring {15 * MINIMUM} human images or more, or set select.threshold to a number",
            )
        model = open_filter(site.models[self.filter], site.device, site.batch, self.inference)
        judged = judge(pairs, model, model, self.seed)
        found = calibrate(
            judged.own, np.concatenate([judged.shuffled, judged.hard]), minimum=MINIMUM, seed=self.seed
        )
        count = found.positives + found.negatives
        figures = [
            Metric(
                name="threshold",
                value=found.threshold,
                low=None,
                high=None,
                count=count,
                note=f"ITM probability at even odds, from {len(pairs.pictures)} calibrate images",
            ),
            Metric(name="temperature", value=found.temperature, low=None, high=None, count=count, note=""),
            Metric(name="bias", value=found.bias, low=None, high=None, count=count, note=""),
            Metric(
                name="auc",
                value=found.auc,
                low=found.auc_low,
                high=found.auc_high,
                count=count,
                note="on the pairs of the fit: the honest figure is on the test split",
            ),
        ]
        yield Rows(Contract(Metric).table(figures), shard="0000000", units=len(figures))
