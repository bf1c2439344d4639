"""Judge every text of an image, web and synthetic alike, in one pass over the image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import Caption, IngestedImage, Record, Score, Source, UniqueImage
from capfilt.data_contracts.rejects import Reason
from capfilt.models.protocols import FLOAT32, Inference
from capfilt.stages.dedup.unique import gathered_texts, unique_images, unique_rows
from capfilt.stages.stage import (
    MODEL_LIBRARIES,
    ModelRef,
    Rejected,
    Rows,
    ShardInput,
    ShardStage,
    Site,
    Transform,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from capfilt.models.open import Filter


class _Text(NamedTuple):
    pair: str
    source: Source
    caption: int | None
    text: str


class Shown(NamedTuple):
    """An image with the texts that are to be judged, and as what a model reads them."""

    row_id: str
    image_id: str
    image: "Image"
    texts: list[_Text]
    readings: list[str]


@dataclass(frozen=True)
class ScorePairs(ShardStage):
    """One :class:`Score` a text: the ITM probability that decides, and the ITC cosine beside it."""

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage, Caption, UniqueImage)
    produces: ClassVar[type[Record]] = Score
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "text"

    filter: ModelRef
    inference: Inference = FLOAT32

    def open(self, site: Site) -> Transform:
        from capfilt.models.open import open_filter

        model = open_filter(site.models[self.filter], site.device, site.batch, self.inference)
        return lambda shard: self._transform(shard, model, site)

    def units(self, shard: ShardInput) -> Mapping[str, Sequence[str]]:
        return {row: [text.pair for text in texts] for row, texts in self._texts(shard).items()}

    def _texts(self, shard: ShardInput) -> dict[str, list[_Text]]:
        """The texts of each row: its web texts and those of its duplicates, then its captions."""
        texts: dict[str, list[_Text]] = {}
        kept, gathered = set(unique_rows(shard)), gathered_texts(shard)
        for row in shard.table(IngestedImage, ["row_id", "image_id", "texts"]).to_pylist():
            if row["row_id"] in kept:
                own = [*row["texts"], *gathered.get(row["row_id"], ())]
                texts[row["row_id"]] = [
                    _Text(pair_id(row["image_id"], text), Source.WEB, None, text) for text in own
                ]
        for row in shard.table(Caption).to_pylist() if shard.has(Caption) else ():
            pair = pair_id(row["image_id"], row["text"])
            texts[row["row_id"]].append(_Text(pair, Source.SYNTHETIC, row["caption_index"], row["text"]))
        return texts

    def _transform(self, shard: ShardInput, model: "Filter", site: Site) -> Iterator[Rows]:
        from capfilt.models.text.normalise import normalise_caption

        texts = self._texts(shard)
        seen: set[str] = set()
        for batch in unique_images(shard, site.batch):
            rejected: list[Rejected] = []
            shown: list[Shown] = []
            for row, image, data in zip(*map(batch.column, ("row_id", "image_id", "image")), strict=True):
                judged = []
                for text in texts[row.as_py()]:
                    reason = self._refuse(text, normalise_caption(text.text), seen)
                    if reason is None:
                        judged.append(text)
                    else:
                        rejected.append(
                            Rejected(
                                id=text.pair,
                                row_id=row.as_py(),
                                reason=reason,
                                detail=f"{text.source}: {text.text[:200]}",
                            )
                        )
                if judged:
                    decoded = site.decode(image.as_py(), data.as_py())
                    readings = [normalise_caption(text.text) for text in judged]
                    shown.append(Shown(row.as_py(), image.as_py(), decoded, judged, readings))
            yield Rows(Contract(self.produces).table(self._judge(shown, model)), rejected)

    def _judge(self, shown: Sequence[Shown], model: "Filter") -> Sequence[Record]:
        """A row for each text."""
        matches = model.match([one.image for one in shown], [one.readings for one in shown])
        return [
            Score(
                pair_id=text.pair,
                row_id=one.row_id,
                image_id=one.image_id,
                source=text.source,
                caption_index=text.caption,
                text=text.text,
                itm=match.itm,
                itc=match.itc,
            )
            for one, own in zip(shown, matches, strict=True)
            for text, match in zip(one.texts, own, strict=True)
        ]

    @staticmethod
    def _refuse(text: _Text, reading: str, seen: set[str]) -> Reason | None:
        if text.pair in seen:
            return Reason.DUPLICATE_PAIR
        seen.add(text.pair)
        return None if reading else Reason.EMPTY_TEXT
