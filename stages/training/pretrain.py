"""Pretrain on human and web pairs, and on those that another run has cleaned."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from capfilt.data_contracts.records import CleanedImage, HumanImage, IngestedImage, Record, Split
from capfilt.stages.stage import Site, StageInput
from capfilt.stages.training.pairs import CommittedPairs, held_out_pairs, human_pairs
from capfilt.stages.training.train import Training

if TYPE_CHECKING:
    from capfilt.models.med.checkpoint import Checkpoint as Loaded
    from capfilt.models.training.loop import Execution
    from capfilt.models.training.settings import PretrainSettings

logger = logging.getLogger(__name__)

MOST_PASSES = 8  # over a small crawl: with photographs 3 did no harm and 10 did (docs/training.md)


@dataclass(frozen=True)
class Pretrain(Training):
    """ITC + ITM + LM on human and web pairs (BLIP, section 3.2), and on those that another run has cleaned."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, CleanedImage)

    settings: "PretrainSettings"

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.data import PairSource
        from capfilt.models.training.jobs import pretrain

        size, settings = loaded.model.config.image_size, self.settings
        human, held_out = human_pairs(inputs, size, site), held_out_pairs(inputs, size, site)
        web = CommittedPairs(inputs, IngestedImage, size, site)
        others = [PairSource(web, len(web))]
        what = f"Pretrained with ITC, ITM and LM on {len(human)} human and {len(web)} web images"
        beside = 0
        if inputs.has(CleanedImage):
            aside = _held_out_ids(inputs)
            cleaned = CommittedPairs(
                inputs,
                CleanedImage,
                size,
                site,
                trusted=lambda image, texts: () if image in aside else texts,
            )
            beside = len(cleaned)
            weights = settings.other_shares(len(web), beside)
            others = [PairSource(web, weights[0]), PairSource(cleaned, weights[1])]
            what += f", and on {beside} that another run has cleaned"
        passes = web_passes(vars(settings), len(web), beside)
        if passes > MOST_PASSES and execution.world.first:
            logger.warning(learnt_by_heart(passes, len(web)))
        pretrain(loaded.model, loaded.tokenizer, human, others, settings, execution, held_out)
        return f"{what}."


def web_passes(settings: Mapping[str, Any], web: int, cleaned: int) -> float:
    """How often pretraining sees each of so many web images, beside so many that another run has cleaned.

    ``settings`` are those of :class:`capfilt.models.training.settings.PretrainSettings` by name, as a run's record
    has them; the shares are what its ``other_shares`` comes to.
    """
    share = 1 - settings["human_share"] - settings["cleaned_share"]
    if not settings["cleaned_share"] and cleaned:
        share *= web / (web + cleaned)
    return float(settings["steps"] * settings["batch"] * share / web) if web else 0.0


def learnt_by_heart(passes: float, web: int) -> str:
    return (
        f"Pretraining sees each of the {web:,} web images {passes:.0f} times. A model learns so few wrong texts by "
        "heart, and the filter then lets them pass, which test images do not show. Take "
        "human pairs alone (human_share 1), fewer steps, or a larger crawl."
    )


def _held_out_ids(inputs: StageInput) -> frozenset[str]:
    """The images of the human set that no training may see."""
    return frozenset(
        image
        for part in inputs.parts(HumanImage, ["image_id", "split"])
        for image, split in zip(part["image_id"].to_pylist(), part["split"].to_pylist(), strict=True)
        if split != Split.TRAIN
    )
