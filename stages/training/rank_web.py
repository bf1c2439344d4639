"""Compare every web text with its image by the pretrained model: what is most alike, the filter rehearses on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, ClassVar

from capfilt.data_contracts.records import Record, WebSimilarity
from capfilt.stages.clean.score import Shown
from capfilt.stages.training.screen_web import ScreenWeb

if TYPE_CHECKING:
    from capfilt.models.open import Filter


@dataclass(frozen=True)
class RankWeb(ScreenWeb):
    """One :class:`WebSimilarity` a web text, by the unimodal encoders of ``filter``: here the pretrained model."""

    produces: ClassVar[type[Record]] = WebSimilarity

    def _judge(self, shown: Sequence[Shown], model: "Filter") -> Sequence[Record]:
        if not shown:
            return []
        images = model.embed_images([one.image for one in shown])
        texts = model.embed_texts([reading for one in shown for reading in one.readings])
        spans = pairwise(accumulate((len(one.texts) for one in shown), initial=0))
        return [
            WebSimilarity(pair_id=text.pair, row_id=one.row_id, itc=float(cosine))
            for one, image, (start, end) in zip(shown, images, spans, strict=True)
            for text, cosine in zip(one.texts, texts[start:end] @ image, strict=True)
        ]
