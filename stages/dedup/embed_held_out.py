"""Embed what must not be in the crawl: the human images that nothing is trained on, and evaluation sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from capfilt.data_contracts.contract import Contract, vectors
from capfilt.data_contracts.identity import image_id
from capfilt.data_contracts.records import HeldOutImage, HumanImage, Record, Split
from capfilt.models.protocols import FLOAT32, Embedder, Inference
from capfilt.stages.dedup.embed import TOGETHER, embed_images, embed_texts
from capfilt.stages.dedup.evaluation_images import EvaluationImages
from capfilt.stages.stage import MODEL_LIBRARIES, GlobalStage, ModelRef, Rows, Site, StageInput

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EmbedHeldOut(GlobalStage):
    """Vectors and hashes of the human calibrate and test splits and of all images in ``sets``.

    A file of an evaluation set that is no image is noted and left out.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage,)
    produces: ClassVar[type[Record]] = HeldOutImage
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    may_find_nothing: ClassVar[bool] = True

    model: ModelRef
    sets: tuple[EvaluationImages, ...] = ()
    inference: Inference = FLOAT32

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from capfilt.models.images.decode import UndecodableImage, decode
        from capfilt.models.open import open_filter

        embedder = open_filter(site.models[self.model], site.device, TOGETHER, self.inference)
        made: list[pa.Table] = []
        unreadable: list[str] = []
        held: dict[tuple[str, str], Image] = {}
        seen: set[tuple[str, str]] = set()
        for name, data in self._images(inputs):
            key = (image_id(data), name)
            if key in seen:
                continue
            try:
                held[key] = decode(data)
            except UndecodableImage as error:
                unreadable.append(f"{name}: {error}")
                continue
            seen.add(key)
            if len(held) == TOGETHER:
                made.append(_rows(embedder, held))
                site.progress(len(seen), 0, f"{len(seen):,} held-out images")
                held = {}
        made.append(_rows(embedder, held))
        notes = (f"{len(unreadable)} files are no image: {unreadable[0]}",) if unreadable else ()
        kept = pa.concat_tables(made)
        yield Rows(kept, units=len(kept), notes=notes)

    def _images(self, inputs: StageInput) -> Iterator[tuple[str, bytes]]:
        if inputs.has(HumanImage):
            for part in inputs.parts(HumanImage, ["url", "image", "split"]):
                for url, data, split in zip(part["url"], part["image"], part["split"], strict=True):
                    if split.as_py() != Split.TRAIN:
                        yield f"human {split.as_py()} {url.as_py()}", data.as_py()
        for one in self.sets:
            yield from one.images()


def _rows(embedder: Embedder, held: "dict[tuple[str, str], Image]") -> pa.Table:
    from capfilt.models.images.perceptual_hash import perceptual_hash

    found = embed_images(embedder, list(held.values()), [name for _, name in held])
    if not held:
        found = embed_texts(embedder, [])
    column, schema = vectors(found), Contract(HeldOutImage).schema
    arrays = [
        pa.array([image for image, _ in held], pa.string()),
        pa.array([name for _, name in held], pa.string()),
        pa.array([perceptual_hash(decoded) for decoded in held.values()], pa.string()),
        column,
    ]
    return pa.table(arrays, schema=schema.set(3, schema.field(3).with_type(column.type)))
