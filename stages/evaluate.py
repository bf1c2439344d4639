"""Judge the filter and the captioner on human test pairs that neither training nor threshold saw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from data_contracts.contract import Contract
from data_contracts.records import HumanPicture, Metric, Picture, Record, Split
from models.protocols import FLOAT32, Captioner, Decoding, Inference
from stages.held_out import HeldOut, Judged, held_out, judge
from stages.stage import MODEL_LIBRARIES, GlobalStage, ModelRef, Rows, Site, StageInput

FEWEST = 5


@dataclass(frozen=True)
class Evaluate(GlobalStage):
    """Retrieval recall, filter AUC, caption metrics, all on the test split.

    An image that also occurs in the crawl does not count as test. Captions are held against the human ones,
    with the human captions of *other* images as the level that a captioner must beat to be worth anything.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture, Picture)
    produces: ClassVar[type[Record]] = Metric
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "figure"

    filter: ModelRef
    captioner: ModelRef
    decoding: Decoding
    seed: int
    inference: Inference = FLOAT32

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from models.open import open_captioner, open_filter
        from models.threads import use_threads

        use_threads(site.threads)
        crawled = frozenset(
            image for part in inputs.parts(Picture, ["image_id"]) for image in part["image_id"].to_pylist()
        )
        pairs = held_out(inputs, Split.TEST, besides=crawled)
        figures = [_figure("test_images", len(pairs.pictures), len(pairs.pictures))]
        if len(pairs.pictures) >= FEWEST:
            model = open_filter(site.models[self.filter], site.device, site.batch, self.inference)
            figures += self._filter(pairs, judge(pairs, model, model, self.seed))
            captioner = open_captioner(site.models[self.captioner], site.device, site.batch, self.inference)
            figures += self._captions(pairs, captioner)
        yield Rows(Contract(Metric).table(figures), shard="0000000", units=len(figures))

    def _filter(self, pairs: HeldOut, judged: Judged) -> list[Metric]:
        from models.metrics import recall_at

        recalls = recall_at(judged.similarity, pairs.owner.tolist())
        aucs = []
        if len(judged.shuffled):  # none when all test images have the same texts
            aucs = [
                self._auc(
                    "filter_auc", judged.own, judged.shuffled, "ITM: human pairs against shuffled ones"
                ),
                self._auc(
                    "filter_auc_hard", judged.own, judged.hard, "ITM: against the ITC-hardest mismatch"
                ),
                self._auc("filter_auc_itc", judged.own_itc, judged.shuffled_itc, "ITC cosine instead of ITM"),
            ]
        return aucs + [
            _figure(name, value, len(pairs.pictures), note="ITC retrieval among the test images")
            for name, value in recalls.items()
        ]

    def _auc(self, name: str, matched: np.ndarray, mismatched: np.ndarray, note: str) -> Metric:
        from models.metrics import auc_with_interval

        labels = np.repeat([1, 0], [len(matched), len(mismatched)])
        auc = auc_with_interval(labels, np.concatenate([matched, mismatched]), self.seed)
        return Metric(name=name, value=auc.value, low=auc.low, high=auc.high, count=len(labels), note=note)

    def _captions(self, pairs: HeldOut, captioner: Captioner) -> list[Metric]:
        from models.metrics import caption_metrics, words

        written = captioner.caption(pairs.pictures, pairs.image_ids, replace(self.decoding, per_image=1))
        texts = dict(zip(pairs.image_ids, pairs.texts, strict=True))
        references = {image: own for image, own in texts.items() if any(map(words, own))}
        if not references:
            return []
        candidates = {
            image: own[0].text
            for image, own in zip(pairs.image_ids, written, strict=True)
            if image in references
        }
        shifted = dict(zip(references, _shifted(list(references.values())), strict=True))
        ours, chance = caption_metrics(references, candidates), caption_metrics(references, shifted)
        count = len(references)
        return [
            *(_figure(f"caption_{name}", value, count) for name, value in ours.items()),
            _figure(
                "chance_cider",
                chance["cider"],
                count,
                note="human captions of other test images",
            ),
        ]


def _shifted(texts: Sequence[Sequence[str]]) -> list[str]:
    """For every image the first text of the next one."""
    return [texts[(index + 1) % len(texts)][0] for index in range(len(texts))]


def _figure(name: str, value: float, count: int, note: str = "") -> Metric:
    return Metric(name=name, value=value, low=None, high=None, count=count, note=note)
