"""Figures by which models and datasets are judged. Pure functions of texts, labels and scores.

Everything runs offline without Java: CIDEr, BLEU and ROUGE-L from pycocoevalcap, whose PTB tokenizer (Java)
is replaced by :func:`words`, so figures differ from published ones in the last digit or two; METEOR and SPICE
need Java and are left out.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from capfilt.models.text.normalise import normalise_caption

Id = TypeVar("Id", bound=Hashable)
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


def recall_at(
    similarity: ArrayLike, image_of_text: Sequence[int], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Retrieval recall both ways: ``tr@k`` (image to text) and ``ir@k`` (text to image), in [0, 1].

    ``similarity`` has shape (images, texts); ``image_of_text[t]`` is the row of text ``t``'s image, which may
    have several texts: an image counts as found if any of them ranks in the first k. Images without text do
    not count. Ties count against, so a constant similarity scores nothing. :class:`ValueError` on NaN.
    """
    scores = np.asarray(similarity, dtype=np.float64)
    owner = np.asarray(image_of_text, dtype=np.int64)
    if scores.ndim != 2 or scores.shape[1] != len(owner) or np.isnan(scores).any():
        raise ValueError(f"similarity {scores.shape} for {len(owner)} texts: wrong shape or NaN")
    own = owner[None, :] == np.arange(len(scores))[:, None]
    best = np.where(own, scores, -np.inf).max(1, initial=-np.inf)
    image_ranks = (~own & (scores >= best[:, None])).sum(1)[own.any(1)]
    text_ranks = (~own & (scores >= scores[owner, np.arange(len(owner))])).sum(0)
    return {
        f"{way}@{k}": float((ranks < k).mean()) if len(ranks) else 0.0
        for way, ranks in (("tr", image_ranks), ("ir", text_ranks))
        for k in ks
    }


def caption_metrics(references: Mapping[Id, Sequence[str]], candidates: Mapping[Id, str]) -> dict[str, float]:
    """``cider``, ``bleu_1`` to ``bleu_4``, ``rouge_l`` of one candidate an id, and its :func:`diversity`.

    CIDEr weighs words by how few *images* have them, so it says nothing about a handful of images (one: 0).
    :class:`ValueError` for no candidates, or a candidate without a reference that has words.
    """
    written = {key: [" ".join(words(text))] for key, text in candidates.items()}
    known = {key: [" ".join(words(text)) for text in references.get(key, ())] for key in candidates}
    known = {key: [text for text in texts if text] for key, texts in known.items()}
    lacking = [key for key, texts in known.items() if not texts]
    if lacking or not written:
        raise ValueError(
            f"{len(lacking)} of {len(written)} candidates have no reference, such as {lacking[:3]}"
            if lacking
            else "no candidates"
        )
    bleu, _ = Bleu(4).compute_score(known, written, verbose=0)  # the default prints to stdout
    cider, _ = Cider().compute_score(known, written)
    rouge, _ = Rouge().compute_score(known, written)
    figures = {"cider": float(cider), "rouge_l": float(rouge)}
    figures |= {f"bleu_{n}": float(score) for n, score in enumerate(bleu, 1)}
    return figures | diversity(candidates.values())


def diversity(texts: Iterable[str]) -> dict[str, float]:
    """How little a set of texts repeats itself: ``unique_trigrams`` and ``distinct_2`` (distinct over all
    trigrams and bigrams), ``duplicate_rate`` (texts that repeat an earlier one), ``vocabulary`` (words).

    The ratios fall as a set grows: compare sets of equal size.
    """
    split = [words(text) for text in texts]
    return {
        "unique_trigrams": _distinct(split, 3),
        "distinct_2": _distinct(split, 2),
        "duplicate_rate": 1.0 - len(set(map(tuple, split))) / len(split) if split else 0.0,
        "vocabulary": float(len({word for text in split for word in text})),
    }


def most_shared(texts: Iterable[Sequence[str]], n: int | None = None) -> tuple[str, int]:
    """The text (of words, by :func:`words`) that most images have, and how many; ``("", 0)`` without texts.

    ``texts`` has the texts of one image each. With ``n`` the phrase of ``n`` words, anywhere in a text. Among
    equals the first in the alphabet, so that the order of the images does not matter.
    """
    images: Counter[str] = Counter()
    for own in texts:
        found: set[str] = set()
        for split in map(words, own):
            size = n or len(split)
            found |= {" ".join(split[start : start + size]) for start in range(len(split) - size + 1)}
        images.update(found - {""})
    return min(images.items(), key=lambda item: (-item[1], item[0]), default=("", 0))


def words(text: str) -> list[str]:
    """Lower-case words of a caption by BLIP's normalisation, without what punctuation that leaves."""
    return _WORD.findall(normalise_caption(text, max_words=10_000))


def _distinct(split: Sequence[Sequence[str]], n: int) -> float:
    grams = [tuple(text[i : i + n]) for text in split for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def ece(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10, weights: ArrayLike | None = None
) -> float:
    """Expected calibration error: mean distance of confidence and frequency over equal-width bins, weighted.

    ``labels`` 0 or 1 and ``probabilities`` in [0, 1], shape (n,); ``weights`` (n,) default to equal ones.
    """
    truth, chance = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    weight = np.ones_like(chance) if weights is None else np.asarray(weights, dtype=np.float64)
    which = np.clip((chance * bins).astype(np.int64), 0, bins - 1)
    gap = np.bincount(which, weight * (chance - truth), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def prevalence(positive: float, found: float, faulted: float) -> float:
    """How many have what a test looks for, by the share that it calls positive (Rogan and Gladen 1978).

    The test finds the share ``found`` of those that have it, and calls ``faulted`` of the others positive, too; NaN
    if it tells nothing.
    """
    return float(np.clip((positive - faulted) / (found - faulted), 0, 1)) if found > faulted else float("nan")
