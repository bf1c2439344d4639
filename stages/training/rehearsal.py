"""What the finetunings rehearse on beside the human pairs: web texts that a model has reason to trust.

Beyond BLIP, which finetunes on human pairs alone. A human set that is narrower than the web makes the filter
drop what it never saw there, and the captioner unable to name it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import Score, WebSimilarity
from capfilt.stages.stage import StageInput

NARROW = 0.8  # a human set is narrow whose captions know a smaller share of the web's word occurrences
SHARE = 0.15  # of the web texts, those that the pretrained model is surest of
EVEN = 0.5  # the filter's probability from which the captioner rehearses on a web text


def covered_share(words: pa.Table) -> float:
    """The share of the web's word occurrences whose word is covered; 1 without a frequent word.

    ``words`` has the columns `web_texts` and `covered` of :class:`~capfilt.data_contracts.records.WordCoverage`.
    """
    every = pc.sum(words["web_texts"]).as_py() or 0
    covered = pc.sum(words.filter(words["covered"])["web_texts"]).as_py() or 0
    return covered / every if every else 1.0


def is_narrow(words: pa.Table) -> bool:
    """Whether the human captions know too little of what the web says: then `auto` rehearses."""
    return covered_share(words) < NARROW


@dataclass(frozen=True, eq=False)
class Trusted:
    """Web texts by their pair ids: a sorted array of 16 bytes each, so many fit in memory."""

    pairs: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.pairs)

    def of(self, image: str, texts: Sequence[str]) -> list[str]:
        """Those of an image's web texts that are trusted. ``image`` is its image_id."""
        if not len(self.pairs) or not texts:
            return []
        asked = _packed([pair_id(image, text) for text in texts])
        place = np.searchsorted(self.pairs, asked).clip(max=len(self.pairs) - 1)
        return [text for text, found in zip(texts, self.pairs[place] == asked, strict=True) if found]


def confident(inputs: StageInput, share: float = SHARE) -> Trusted:
    """The ``share`` of the web texts that the pretrained model finds most like their images, of all shards.

    None when the stage `rank_web` found that there is no need to rehearse. Two passes: cosines, then ids.
    """
    cosines = [part["itc"].to_numpy().astype(np.float32) for part in inputs.parts(WebSimilarity, ["itc"])]
    every = np.concatenate(cosines) if cosines else np.empty(0, np.float32)
    if not len(every):
        return Trusted(_packed([]))
    place = len(every) - max(1, round(share * len(every)))
    cut = np.partition(every, place)[place]
    return _trusted(
        part.filter(_from(part["itc"], cut)) for part in inputs.parts(WebSimilarity, ["pair_id", "itc"])
    )


def screened(inputs: StageInput, threshold: float = EVEN) -> Trusted:
    """The web texts that the finetuned filter gives at least this probability, as the stage `screen_web` scored them.

    None when there is no need to rehearse.
    """
    parts = inputs.parts(Score, ["pair_id", "itm"])
    return _trusted(part.filter(pc.greater_equal(part["itm"], threshold)) for part in parts)


def _from(cosines: pa.ChunkedArray, cut: np.float32) -> pa.ChunkedArray:
    """Whether each, as float32, is at the cut or above."""
    return pc.greater_equal(cosines.cast(pa.float32()), pa.scalar(cut, pa.float32()))


def _trusted(parts: Iterator[pa.Table]) -> Trusted:
    packed = [_packed(part["pair_id"].to_pylist()) for part in parts]
    return Trusted(np.unique(np.concatenate(packed)) if packed else _packed([]))


def _packed(pairs: Sequence[str]) -> NDArray[np.bytes_]:
    """Hexadecimal ids as 16 bytes each. Zero bytes at the end do not count, and are equal where the ids are."""
    return np.frombuffer(bytes.fromhex("".join(pairs)), dtype="S16")
