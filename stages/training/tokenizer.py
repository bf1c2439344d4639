"""Train a tokenizer from the captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import HumanImage, IngestedImage, Metric, Record
from capfilt.stages.stage import GlobalStage, Model, Rows, Site, StageInput


@dataclass(frozen=True)
class TrainTokenizer(GlobalStage):
    """A WordPiece vocabulary of at most ``size`` pieces from all human and web texts."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage)
    produces: ClassVar[type[Record]] = Metric
    unit: ClassVar[str] = "figure"

    size: int

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        from capfilt.models.med.tokenizer import CaptionTokenizer

        texts = [
            text
            for record in (HumanImage, IngestedImage)
            for part in inputs.parts(record, ["texts"])
            for own in part["texts"].to_pylist()
            for text in own
        ]
        tokenizer = CaptionTokenizer.train(texts, self.size)
        directory = site.scratch / "model"
        directory.mkdir()
        tokenizer.save(directory)
        yield Model(directory)
        figure = Metric(name="vocabulary", value=tokenizer.size, count=len(texts), note="word pieces")
        yield Rows(Contract(Metric).table([figure]), units=1)
