"""Small rows of the contracts, and the tiny models that judge and caption them."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from capfilt.data_contracts.identity import image_id, pair_id, row_id
from capfilt.data_contracts.records import (
    Caption,
    HumanImage,
    IngestedImage,
    Occurrence,
    Record,
    Score,
    Source,
    Split,
)
from capfilt.models.protocols import Decoding, Images, Match, Written
from capfilt.pipeline.execution.attempt import decode_again
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import GlobalStage, Model, ModelRef, Rejected, Rows, Site, StageInput, Transform


def png(number: int, size: int = 8) -> bytes:
    """A picture of one colour, another one for every number below 16 million."""
    data = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256, number // 256 % 256, number // 65536)).save(data, "PNG")
    return data.getvalue()


def number_of(image: Image.Image) -> int:
    """The number that a picture of :func:`png` was made from."""
    red, green, blue = image.getpixel((0, 0))
    return red + 256 * green + 65536 * blue


def occurrence(place: str, *texts: str, source: str = "web", extra: str | None = None) -> Occurrence:
    row = row_id(source, place)
    return Occurrence(
        row_id=row, source_name=source, url=place, texts=list(texts), place=place, size=1, extra=extra
    )


def picture(number: int, *texts: str, url: str = "") -> IngestedImage:
    data, url = png(number), url or f"{number}.png"
    return IngestedImage(
        row_id=row_id("web", url),
        image_id=image_id(data),
        source_name="web",
        url=url,
        texts=list(texts),
        image=data,
        format="PNG",
        width=8,
        height=8,
    )


def human(number: int, *texts: str, split: Split = Split.TRAIN) -> HumanImage:
    made = picture(number, *texts)
    values = {**made.model_dump(), "source_name": "human", "row_id": row_id("human", made.url)}
    return HumanImage(**values, split=split)


def caption(number: int, text: str, index: int = 0) -> Caption:
    made = picture(number)
    return Caption(row_id=made.row_id, image_id=made.image_id, caption_index=index, text=text, logprob=-1.0)


def score(number: int, text: str, itm: float, source: Source = Source.WEB) -> Score:
    made = picture(number)
    return Score(
        pair_id=pair_id(made.image_id, text),
        row_id=made.row_id,
        image_id=made.image_id,
        source=source,
        caption_index=0 if source is Source.SYNTHETIC else None,
        text=text,
        itm=itm,
        itc=0.0,
    )


def site(scratch: Path, *models: ModelRef, batch: int = 2) -> Site:
    def lasting() -> Path:
        (scratch / "lasting").mkdir(exist_ok=True)
        return scratch / "lasting"

    return Site(
        device="cpu",
        threads=1,
        batch=batch,
        models={model: str(model) for model in models},
        scratch=scratch,
        lasting=lasting,
        keep=lambda: None,
        progress=lambda done, total, text, figures=None: None,
        decode=decode_again,
    )


def collect(made: Iterator[Rows]) -> tuple[pa.Table, list[Rejected]]:
    """All kept rows, and all rejects."""
    outcomes = list(made)
    kept = pa.concat_tables(rows.kept for rows in outcomes)
    return kept, [reject for rows in outcomes for reject in rows.rejected]


def run_shard(
    transform: Transform, *rows: Record, empty: Sequence[type[Record]] = ()
) -> tuple[list[dict], list[Rejected]]:
    kept, rejected = collect(transform(MemoryInput.of(*rows, empty=empty)))
    return kept.to_pylist(), rejected


def run_global(stage: GlobalStage, where: Site, inputs: StageInput) -> tuple[list[dict], list[Rows | Model]]:
    """The kept rows of all parts, and everything that the stage yielded."""
    made = list(stage.run(where, inputs))
    rows = [row for some in made if isinstance(some, Rows) for row in some.kept.to_pylist()]
    return rows, made


class FakeFilter:
    """A filter for pictures of :func:`png`: the text `n ...` is about image n, everything else is not."""

    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        return [
            [Match(*((0.9, 0.5) if self._about(text) == number_of(image) else (0.1, -0.5))) for text in own]
            for image, own in zip(images, texts, strict=True)
        ]

    temperature = 0.07

    def count_truncated(self, texts: Sequence[str]) -> int:
        return sum(len(text) > 100 for text in texts)

    def embed_images(self, images: Images) -> NDArray[np.float32]:
        return self._directions([number_of(image) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._directions([self._about(text) for text in texts])

    @staticmethod
    def _about(text: str) -> int:
        first = text.split(" ")[0]
        return int(first) if first.isdigit() else -1

    @staticmethod
    def _directions(numbers: Sequence[int]) -> NDArray[np.float32]:
        """Points on a circle: neighbouring numbers are alike."""
        angles = np.array(numbers, dtype=np.float32) / 10
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class FakeCaptioner:
    """Writes `n seen i`; of an image whose number ends in 7 it writes nothing but spaces."""

    def caption(self, images: Images, image_ids: Sequence[str], decoding: Decoding) -> list[list[Written]]:
        return [
            [
                Written(" " if number_of(image) % 10 == 7 else f"{number_of(image)}  seen {index}", -1.0)
                for index in range(decoding.per_image)
            ]
            for image in images
        ]
