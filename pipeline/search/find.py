"""Search an index: images or texts, by a text or by an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.errors import UsageError
from capfilt.models.protocols import Embedder
from capfilt.pipeline.search.index import Opened
from capfilt.stages.dedup.embed import embed_images, embed_texts

Hit = dict[str, Any]


def read_text(embedder: Embedder, text: str) -> tuple[NDArray[np.float32], bool]:
    """The text's vector, shape (1, dim), and whether it was longer than the model reads.

    Raises:
        UsageError: nothing of it is left for the model.
    """
    from capfilt.models.text.normalise import normalise_caption

    if not normalise_caption(text):
        raise UsageError(
            what="there is nothing to search for in this text",
            evidence=f"{text!r} has nothing but punctuation, which the models do not read",
            remedy="give --text with words",
        )
    return embed_texts(embedder, [text]).astype(np.float32), bool(embedder.count_truncated([text]))


def embed_image_file(embedder: Embedder, path: Path) -> NDArray[np.float32]:
    """The image's vector, shape (1, dim). Raises :class:`UsageError` when the file is no image."""
    from capfilt.models.images.decode import UndecodableImage, decode

    try:
        image = decode(path.read_bytes())
    except (OSError, UndecodableImage) as error:
        raise UsageError(
            what=f"{path} cannot be searched for",
            evidence=getattr(error, "strerror", None) or str(error),
            remedy="give --image with an image",
        ) from error
    return embed_images(embedder, [image], [str(path)]).astype(np.float32)


def find(opened: Opened, query: NDArray[np.float32], count: int) -> list[Hit]:
    """The ``count`` nearest, best first; equally near ones in the order of their ids.

    Raises:
        UsageError: the query's vector is not as long as the index's.
    """
    return find_all(opened, query, count)[0]


def find_all(opened: Opened, queries: NDArray[np.float32], count: int) -> list[list[Hit]]:
    """The same for several queries, shape (queries, dim)."""
    if queries.shape[1] != opened.index.d:
        raise UsageError(
            what="the query and the index are of different models",
            evidence=f"{queries.shape[1]} components against {opened.index.d}",
            remedy="search with the model that the index was made with",
        )
    similarity, places = opened.index.search(queries, min(count, opened.index.ntotal))
    return [_hits(opened, own, at) for own, at in zip(similarity.tolist(), places.tolist(), strict=True)]


def _hits(opened: Opened, similarity: Sequence[float], places: Sequence[int]) -> list[Hit]:
    found = [(much, place) for much, place in zip(similarity, places, strict=True) if place >= 0]
    rows = opened.rows.take([place for _, place in found]).to_pylist()
    hits = [{"similarity": much, **row} for (much, _), row in zip(found, rows, strict=True)]
    return sorted(hits, key=lambda hit: (-hit["similarity"], hit["image_id"], hit.get("text", "")))
