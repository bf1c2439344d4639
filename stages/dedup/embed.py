"""Embed images and their texts: the vectors that deduplication, decontamination and search compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from capfilt.data_contracts.contract import Contract, vectors
from capfilt.data_contracts.errors import ModelError
from capfilt.data_contracts.records import Embedding, IngestedImage, Record
from capfilt.models.protocols import FLOAT32, Embedder, Inference
from capfilt.stages.stage import MODEL_LIBRARIES, ModelRef, Rows, ShardInput, ShardStage, Site, Transform

if TYPE_CHECKING:
    from PIL.Image import Image

# What goes through the model together, always, filled up with copies: batched arithmetic of another size may differ
# in the last digit, and whether two images are duplicates must not depend on how the crawl was cut.
TOGETHER = 32


@dataclass(frozen=True)
class EmbedImages(ShardStage):
    """ITC embeddings in float16 (BLIP, arXiv 2201.12086, section 3.2; CLIP's are of the same kind), and a hash.

    Texts longer than the model reads are cut; ``facts`` of each part say how many.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (IngestedImage,)
    produces: ClassVar[type[Record]] = Embedding
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES

    model: ModelRef
    inference: Inference = FLOAT32

    def open(self, site: Site) -> Transform:
        from capfilt.models.open import open_filter

        embedder = open_filter(site.models[self.model], site.device, TOGETHER, self.inference)
        return lambda shard: self._transform(shard, embedder, site)

    def _transform(self, shard: ShardInput, embedder: Embedder, site: Site) -> Iterator[Rows]:
        from capfilt.models.images.perceptual_hash import perceptual_hash

        texts_seen = truncated = 0
        none = embed_texts(embedder, [])
        yield Rows(_table(Contract(Embedding).schema, {}, none, none, []))
        for batch in shard.stream(IngestedImage, TOGETHER):
            images = batch["image_id"].to_pylist()
            shown = zip(images, batch["image"], strict=True)
            decoded = [site.decode(image, data.as_py()) for image, data in shown]
            texts = batch["texts"].to_pylist()
            flat = [text for own in texts for text in own]
            seen, read = embed_images(embedder, decoded, images), embed_texts(embedder, flat)
            texts_seen, truncated = texts_seen + len(flat), truncated + embedder.count_truncated(flat)
            counts = [len(own) for own in texts]
            owner = np.repeat(np.arange(len(counts)), counts)
            cosine = (seen[owner].astype(np.float64) * read.astype(np.float64)).sum(1).clip(-1.0, 1.0)
            best = np.full(len(counts), -np.inf)
            np.maximum.at(best, owner, cosine)
            columns = {
                "row_id": batch["row_id"],
                "image_id": batch["image_id"],
                "pixels": pc.multiply(batch["width"], batch["height"]),
                "hash": pa.array([perceptual_hash(one) for one in decoded]),
                "itc": pa.array(best, mask=np.isneginf(best)),
            }
            yield Rows(_table(Contract(Embedding).schema, columns, seen, read, counts))
        facts = {"dim": none.shape[1], "texts": texts_seen, "texts_truncated": truncated}
        yield Rows(_table(Contract(Embedding).schema, {}, none, none, []), facts=facts)


def _table(
    schema: pa.Schema,
    columns: dict[str, pa.Array],
    images: NDArray[np.float16],
    texts: NDArray[np.float16],
    counts: Sequence[int],
) -> pa.Table:
    """Rows of :class:`Embedding`: the texts' vectors cut into lists of ``counts``."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts, dtype=np.int32)]).astype(np.int32))
    inner = vectors(texts)
    lists = pa.ListArray.from_arrays(
        offsets, inner, type=pa.list_(schema.field("texts").type.value_field.with_type(inner.type))
    )
    found = {**columns, "image": vectors(images), "texts": lists}
    arrays = [found.get(field.name, pa.array([], field.type)) for field in schema]
    fields = [field.with_type(array.type) for field, array in zip(schema, arrays, strict=True)]
    return pa.table(arrays, schema=pa.schema(fields, schema.metadata))


def embed_images(embedder: Embedder, decoded: Sequence["Image"], ids: Sequence[str]) -> NDArray[np.float16]:
    """Shape (images, dim), float16, L2-normalised.

    Raises:
        ModelError: the model gives a vector that is zero or not finite; ``ids`` name the image.
    """
    found = [
        embedder.embed_images([*some, *[some[-1]] * (TOGETHER - len(some))])[: len(some)]
        for some in (decoded[start : start + TOGETHER] for start in range(0, len(decoded), TOGETHER))
    ]
    return _halves(np.concatenate(found) if found else embedder.embed_images([]), "image", ids)


def embed_texts(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float16]:
    """Shape (texts, dim), float16, L2-normalised. Raises :class:`ModelError` as :func:`embed_images` does."""
    found = [
        embedder.embed_texts([*some, *[some[-1]] * (TOGETHER - len(some))])[: len(some)]
        for some in (texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER))
    ]
    return _halves(np.concatenate(found) if found else embedder.embed_texts([]), "text", texts)


def _halves(found: NDArray[np.float32], kind: str, names: Sequence[str]) -> NDArray[np.float16]:
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    unusable = ~(np.isfinite(lengths) & (lengths > 0))
    if unusable.any():
        first = names[int(np.flatnonzero(unusable)[0])]
        raise ModelError(
            what=f"the model's {kind} vectors cannot be compared: some are zero or not finite",
            evidence=f"{int(unusable.sum())} of {len(found)}, such as that of {first[:200]!r}",
            remedy="its weights are damaged or its training diverged: use another one, or Inference.precision fp32",
        )
    halves: NDArray[np.float16] = (found / lengths[:, None]).astype(np.float16)
    return halves
