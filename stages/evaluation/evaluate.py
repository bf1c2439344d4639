"""Figures of the filter and the captioner on human test pairs that neither training nor threshold saw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import (
    AuditedCaption,
    Author,
    HeldOutScore,
    HumanImage,
    IngestedImage,
    Metric,
    PairKind,
    Record,
    Split,
)
from capfilt.models.protocols import FLOAT32, Embedder, Inference
from capfilt.stages.evaluation.human_pairs import HeldOut, held_out
from capfilt.stages.stage import MODEL_LIBRARIES, GlobalStage, ModelRef, Rows, Site, StageInput

FEWEST = 5
AUCS = (
    ("filter_auc", PairKind.SHUFFLED, "itm", "ITM: human pairs against shuffled ones"),
    ("filter_auc_hard", PairKind.HARD, "itm", "ITM: against the ITC-hardest mismatch"),
    ("filter_auc_object", PairKind.OBJECT, "itm", "ITM: against their own captions with another object"),
    ("filter_auc_attribute", PairKind.ATTRIBUTE, "itm", "ITM: with another colour, size or number"),
    ("filter_auc_relation", PairKind.RELATION, "itm", "ITM: with a relation turned round"),
    ("filter_auc_itc", PairKind.SHUFFLED, "itc", "ITC cosine instead of ITM"),
)


@dataclass(frozen=True)
class Evaluate(GlobalStage):
    """Retrieval recall, filter AUC, caption metrics, all on the test split.

    An image that also occurs in the crawl does not count as test. Captions are held against the human ones,
    with the human captions of *other* images as the level that a captioner must beat to be worth anything.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, HeldOutScore, AuditedCaption)
    produces: ClassVar[type[Record]] = Metric
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "figure"

    filter: ModelRef
    seed: int
    inference: Inference = FLOAT32

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from capfilt.models.open import open_filter

        crawled = frozenset(
            image
            for part in inputs.parts(IngestedImage, ["image_id"])
            for image in part["image_id"].to_pylist()
        )
        pairs = held_out(inputs, Split.TEST, besides=crawled)
        figures = [Metric(name="test_images", value=len(pairs.images), count=len(pairs.images))]
        if len(pairs.images) >= FEWEST:
            model = open_filter(site.models[self.filter], site.device, site.batch, self.inference)
            figures += [*self._aucs(inputs, crawled), *self._retrieval(pairs, model)]
            figures += self._captions(pairs, inputs)
        yield Rows(Contract(Metric).table(figures), units=len(figures))

    def _aucs(self, inputs: StageInput, crawled: frozenset[str]) -> Iterator[Metric]:
        """None when all test images have the same texts, so that nothing mismatches."""
        from capfilt.models.statistics.roc import roc_auc_over_images

        table = pa.concat_tables(inputs.parts(HeldOutScore))
        rows = [
            row for row in table.to_pylist() if row["split"] == Split.TEST and row["image_id"] not in crawled
        ]
        for name, kind, score, note in AUCS:
            some = [row for row in rows if row["kind"] in (PairKind.OWN, kind)]
            labels = np.array([row["kind"] == PairKind.OWN for row in some], dtype=bool)
            if labels.any() and not labels.all():
                images, scores = [row["image_id"] for row in some], [row[score] for row in some]
                auc = roc_auc_over_images(labels, scores, images, self.seed)
                yield Metric(
                    name=name, value=auc.value, low=auc.low, high=auc.high, count=len(some), note=note
                )

    def _retrieval(self, pairs: HeldOut, embedder: Embedder) -> Iterator[Metric]:
        from capfilt.models.statistics.metrics import recall_at

        similarity = embedder.embed_images(pairs.images) @ embedder.embed_texts(pairs.flat).T
        for name, value in recall_at(similarity, pairs.owner.tolist()).items():
            note = "ITC retrieval among the test images"
            yield Metric(name=name, value=value, count=len(pairs.images), note=note)

    def _captions(self, pairs: HeldOut, inputs: StageInput) -> list[Metric]:
        """Of the first caption of each image that was checked; of none it is empty."""
        from capfilt.models.statistics.metrics import caption_metrics, words

        written: dict[str, str] = {}
        for part in inputs.parts(AuditedCaption, ["image_id", "author", "text"]):
            for row in part.to_pylist():
                text = row["text"] if row["author"] == Author.CAPTIONER else ""
                written[row["image_id"]] = written.get(row["image_id"]) or text
        texts = dict(zip(pairs.image_ids, pairs.texts, strict=True))
        references = {image: own for image, own in texts.items() if any(map(words, own)) and image in written}
        if not references:
            return []
        candidates = {image: written[image] for image in references}
        shifted = dict(zip(references, _shifted(list(references.values())), strict=True))
        ours, chance = caption_metrics(references, candidates), caption_metrics(references, shifted)
        count = len(references)
        return [
            *(Metric(name=f"caption_{name}", value=value, count=count) for name, value in ours.items()),
            Metric(
                name="chance_cider",
                value=chance["cider"],
                count=count,
                note="human captions of other test images",
            ),
        ]


def _shifted(texts: Sequence[Sequence[str]]) -> list[str]:
    """For every image the first text of the next one."""
    return [texts[(index + 1) % len(texts)][0] for index in range(len(texts))]
