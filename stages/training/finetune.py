"""Finetune a filter and a captioner on the human pairs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from capfilt.data_contracts.records import HumanImage, IngestedImage, Record, Score, WebSimilarity
from capfilt.stages.stage import Site, StageInput
from capfilt.stages.training.pairs import CommittedPairs, held_out_pairs, human_pairs
from capfilt.stages.training.rehearsal import Trusted, confident, screened
from capfilt.stages.training.train import Training

if TYPE_CHECKING:
    from capfilt.models.med.checkpoint import Checkpoint as Loaded
    from capfilt.models.training.data import PairSource
    from capfilt.models.training.loop import Execution
    from capfilt.models.training.settings import CaptionerSettings, FilterSettings


@dataclass(frozen=True)
class FinetuneFilter(Training):
    """ITC + ITM on the human pairs (BLIP, section 3.3); with ``rehearsal`` on confident web pairs, too."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, WebSimilarity)

    settings: "FilterSettings"
    rehearsal: bool = False

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.jobs import finetune_filter

        size = loaded.model.config.image_size
        human, held_out = human_pairs(inputs, size, site), held_out_pairs(inputs, size, site)
        web = _trusted_pairs(inputs, confident(inputs), size, site) if self.rehearsal else None
        others = _only(web)
        finetune_filter(loaded.model, loaded.tokenizer, human, others, self.settings, execution, held_out)
        rehearsed = f" and {len(web)} web images of which the pretrained model was sure" if web else ""
        return f"A filter: finetuned with ITC and ITM on {len(human)} human images{rehearsed}."


@dataclass(frozen=True)
class FinetuneCaptioner(Training):
    """LM on the human pairs (BLIP, section 3.3); with ``rehearsal`` on web pairs that `screen_web` trusts, too."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, Score)

    settings: "CaptionerSettings"
    rehearsal: bool = False

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.jobs import finetune_captioner

        size = loaded.model.config.image_size
        human, held_out = human_pairs(inputs, size, site), held_out_pairs(inputs, size, site)
        web = _trusted_pairs(inputs, screened(inputs), size, site) if self.rehearsal else None
        others = _only(web)
        finetune_captioner(loaded.model, loaded.tokenizer, human, others, self.settings, execution, held_out)
        rehearsed = f" and {len(web)} web images whose text the filter kept" if web else ""
        return f"A captioner: finetuned with LM on {len(human)} human images{rehearsed}."


def _trusted_pairs(inputs: StageInput, trusted: Trusted, size: int, site: Site) -> CommittedPairs | None:
    """The web images with a trusted text, and only these texts; ``None`` where there is nothing to rehearse."""
    return CommittedPairs(inputs, IngestedImage, size, site, trusted=trusted.of) if len(trusted) else None


def _only(pairs: CommittedPairs | None) -> "list[PairSource]":
    from capfilt.models.training.data import PairSource

    return [PairSource(pairs, 1.0)] if pairs is not None else []
