"""Keep what the filter calls a match. No model runs here: another threshold or rule is seconds away."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import Decision, Metric, Placeholder, Record, Score, Source
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.stage import (
    GlobalStage,
    Rejected,
    Rows,
    ShardInput,
    ShardStage,
    Site,
    StageInput,
    Transform,
)


class SelectRule(StrEnum):
    """What stays of the texts of one image that reach the threshold.

    ``both``: all of them (BLIP, section 4.2). ``best``: the one with the highest ITM probability.
    ``raw_else_synthetic``: the web texts; synthetic ones only where no web text stays (Nguyen et al. 2023).
    """

    BOTH = "both"
    BEST = "best"
    RAW_ELSE_SYNTHETIC = "raw_else_synthetic"


@dataclass(frozen=True)
class FractionThreshold(GlobalStage):
    """The ITM probability above which ``keep_fraction`` of all scored texts lie (as DataComp filters)."""

    consumes: ClassVar[tuple[type[Record], ...]] = (Score,)
    produces: ClassVar[type[Record]] = Metric
    unit: ClassVar[str] = "figure"

    keep_fraction: float

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        itm = np.concatenate([part["itm"].to_numpy() for part in inputs.parts(Score, ["itm"])])
        threshold = float(np.quantile(itm, 1.0 - self.keep_fraction, method="higher")) if len(itm) else 1.0
        figure = Metric(
            name="threshold",
            value=threshold,
            count=len(itm),
            note=f"keeps the top {self.keep_fraction:g} of all scored texts",
        )
        yield Rows(Contract(Metric).table([figure]), units=1)


@dataclass(frozen=True)
class SelectPairs(ShardStage):
    """Scores to decisions. ``threshold`` null: the figure named `threshold` of the stage before it.

    With ``best_synthetic`` an image's synthetic texts are candidates for one place, and the filter chooses: the
    highest ITM probability stays before the rule is applied.

    Whatever its score, no text of a placeholder stays, and none of its synthetic texts either.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (Score, Metric, Placeholder)
    produces: ClassVar[type[Record]] = Decision
    unit: ClassVar[str] = "text"

    rule: SelectRule
    threshold: float | None
    best_synthetic: bool = False

    def open(self, site: Site) -> Transform:
        return self._transform

    def units(self, shard: ShardInput) -> dict[str, list[str]]:
        """Selection handles a shard's texts at once, so no image can be quarantined alone."""
        return {"": shard.table(Score, ["pair_id"])["pair_id"].to_pylist()}

    def _transform(self, shard: ShardInput) -> Iterator[Rows]:
        scores = shard.table(Score)
        threshold = self.threshold
        if threshold is None:
            figures = shard.table(Metric)
            threshold = figures.filter(pc.equal(figures["name"], "threshold"))["value"][0].as_py()
        reasons = self._reasons(scores, threshold)
        if shard.has(Placeholder):
            placeholders = shard.table(Placeholder, ["image_id"])["image_id"].combine_chunks()
            reasons[pc.is_in(scores["image_id"], placeholders).to_numpy()] = Reason.PLACEHOLDER
        keep = [reason is None for reason in reasons]
        kept = scores.filter(pa.array(keep, pa.bool_())).select(["pair_id", "row_id", "source", "itm"])
        column = pa.array(np.full(kept.num_rows, threshold))
        decisions = kept.append_column(Contract(Decision).schema.field("threshold"), column)
        rejected = [
            Rejected(
                id=row["pair_id"],
                row_id=row["row_id"],
                reason=reason,
                detail=f"{row['source']}: itm {row['itm']:.4f}, threshold {threshold:.4f}",
            )
            for row, reason in zip(
                scores.select(["pair_id", "row_id", "source", "itm"]).to_pylist(), reasons, strict=True
            )
            if reason is not None
        ]
        yield Rows(decisions.cast(Contract(Decision).schema), rejected)

    def _reasons(self, scores: pa.Table, threshold: float) -> NDArray[np.object_]:
        """Why each text leaves; ``None`` where it stays."""
        itm = scores["itm"].to_numpy()
        web = np.array([source == Source.WEB for source in scores["source"].to_pylist()], dtype=bool)
        _, row = np.unique(scores["row_id"].to_numpy(zero_copy_only=False), return_inverse=True)
        reasons = np.full(len(itm), None, dtype=object)
        reasons[itm < threshold] = Reason.BELOW_THRESHOLD
        passing = itm >= threshold
        if self.best_synthetic:
            beaten = passing & ~web & ~_best(itm, row, ~web)
            reasons[beaten] = Reason.NOT_BEST
            passing &= ~beaten
        if self.rule is SelectRule.BEST:
            reasons[passing & ~_best(itm, row, passing)] = Reason.NOT_BEST
        elif self.rule is SelectRule.RAW_ELSE_SYNTHETIC:
            has_web = np.isin(row, row[passing & web])
            reasons[passing & ~web & has_web] = Reason.WEB_TEXT_KEPT
        return reasons


def _best(itm: NDArray[np.float32], row: NDArray[np.int64], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each image the text with the highest ITM probability ``among`` these; the first of equals."""
    order = np.lexsort((np.arange(len(itm)), -itm, row))
    order = order[among[order]]
    best = np.zeros(len(itm), dtype=bool)
    best[order[np.unique(row[order], return_index=True)[1]]] = True
    return best
