"""Write synthetic captions for the crawled images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import Caption, IngestedImage, Record, UniqueImage
from capfilt.models.protocols import FLOAT32, Captioner, Decoding, Inference
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.dedup.unique import unique_images, unique_rows
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


@dataclass(frozen=True)
class WriteCaptions(ShardStage):
    """``decoding.per_image`` captions for each image (BLIP, arXiv 2201.12086, section 3.3).

    What ``guard`` calls no caption leaves with the reason, and with the text for those who doubt it.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage, UniqueImage)
    produces: ClassVar[type[Record]] = Caption
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES

    captioner: ModelRef
    decoding: Decoding
    guard: CaptionGuard = field(default_factory=CaptionGuard)
    inference: Inference = FLOAT32

    @property
    def fan_out(self) -> int:
        return self.decoding.per_image

    def units(self, shard: ShardInput) -> Mapping[str, Sequence[str]]:
        return {row: (row,) for row in unique_rows(shard)}

    def open(self, site: Site) -> Transform:
        from capfilt.models.open import open_captioner

        captioner = open_captioner(site.models[self.captioner], site.device, site.batch, self.inference)
        return lambda shard: self._transform(shard, captioner, site)

    def _transform(self, shard: ShardInput, captioner: Captioner, site: Site) -> Iterator[Rows]:
        for batch in unique_images(shard, site.batch):
            rows, images = batch["row_id"].to_pylist(), batch["image_id"].to_pylist()
            decoded = [
                site.decode(image, data.as_py()) for image, data in zip(images, batch["image"], strict=True)
            ]
            kept, rejected = [], []
            for row, image, captions in zip(
                rows, images, captioner.caption(decoded, images, self.decoding), strict=True
            ):
                for index, written in enumerate(captions):
                    text = " ".join(written.text.split())
                    reason = self.guard.refuse(text, self.decoding.prompt)
                    if reason is None:
                        kept.append(
                            Caption(
                                row_id=row,
                                image_id=image,
                                caption_index=index,
                                text=text,
                                logprob=written.logprob,
                            )
                        )
                    else:
                        rejected.append(
                            Rejected(
                                id=row,
                                row_id=row,
                                reason=reason,
                                detail=f"caption {index}: {text[:200]}",
                            )
                        )
            yield Rows(Contract(Caption).table(kept), rejected)
