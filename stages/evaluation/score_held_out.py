"""Judge human pairs that no training saw, and mismatched ones made from them: what is known of a filter.

Everything that is said of the filter later (threshold, calibration, AUC, precision, expected noise) is computed
from these rows; no model is opened again for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import HeldOutScore, HumanImage, PairKind, Record, Split
from capfilt.models.protocols import FLOAT32, Inference
from capfilt.models.text.edits import EditKind, Edits
from capfilt.models.text.normalise import normalise_caption
from capfilt.stages.evaluation.human_pairs import HeldOut, held_out
from capfilt.stages.stage import MODEL_LIBRARIES, GlobalStage, ModelRef, Rows, Site, StageInput

if TYPE_CHECKING:
    from capfilt.models.open import Filter

SPLITS = (Split.CALIBRATE, Split.TEST)
TEXTS = 1024  # held against all images at once
CANDIDATES = 5


@dataclass(frozen=True)
class ScoreHeldOut(GlobalStage):
    """One part for each of the two splits. Images that the crawl has too are judged like the others: whoever reads
    the test split leaves them out.

    Every caption is judged with its own image, with one drawn at random, with the one that ITC finds likest, and,
    edited in each way that the rules find, with its own image again. ``most`` images of a split are judged.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage,)
    produces: ClassVar[type[Record]] = HeldOutScore
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "pair"
    may_find_nothing: ClassVar[bool] = True

    filter: ModelRef
    seed: int
    inference: Inference = FLOAT32
    most: int = 2000

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from capfilt.models.open import open_filter

        edits = human_edits(inputs)
        model = open_filter(site.models[self.filter], site.device, site.batch, self.inference)
        for number, split in enumerate(SPLITS):
            rows = judge(held_out(inputs, split, most=self.most), split, model, edits, self.seed)
            yield Rows(Contract(HeldOutScore).table(rows), shard=f"{number:07}", units=len(rows))


def human_edits(inputs: StageInput) -> Edits:
    """The rules with the vocabulary of all human captions."""
    return Edits.of(
        normalise_caption(text)
        for part in inputs.parts(HumanImage, ["texts"])
        for texts in part["texts"].to_pylist()
        for text in texts
    )


def judge(pairs: HeldOut, split: Split, model: "Filter", edits: Edits, seed: int) -> list[HeldOutScore]:
    """Every pair once. An image that has the same text, or whose captions say all that a text says, is never taken
    for a mismatch.
    """
    if not pairs.images:
        return []
    wanted: list[dict[tuple[PairKind, str], None]] = [{} for _ in pairs.images]
    for image, (own, name) in enumerate(zip(pairs.texts, pairs.image_ids, strict=True)):
        for text in own:
            wanted[image][PairKind.OWN, text] = None
            for edit in EditKind:
                edited = edits.edit(text, edit, Random(f"{seed} {name} {edit} {text}"), own)
                if edited is not None:
                    wanted[image][PairKind(edit), edited] = None
    for kind, image, text in _mismatched(pairs, model, edits, seed):
        wanted[image][kind, text] = None
    texts = [list(dict.fromkeys(text for _, text in some)) for some in wanted]
    found = model.match(pairs.images, texts)
    rows = []
    for image, some in enumerate(wanted):
        matches = dict(zip(texts[image], found[image], strict=True))
        for kind, text in some:
            rows.append(
                HeldOutScore(
                    split=split,
                    image_id=pairs.image_ids[image],
                    text=text,
                    kind=kind,
                    itm=matches[text].itm,
                    itc=matches[text].itc,
                )
            )
    return rows


def _mismatched(
    pairs: HeldOut, model: "Filter", edits: Edits, seed: int
) -> Iterator[tuple[PairKind, int, str]]:
    """For every text another image at random, and the one that ITC finds likest; none where all have the text, or
    where the first ``CANDIDATES`` of whose captions the rules can judge say the same."""
    texts, owner = pairs.flat, pairs.owner
    images = model.embed_images(pairs.images)
    says = [frozenset(own) for own in pairs.texts]
    random = np.random.default_rng(seed)
    for start in range(0, len(texts), TEXTS):
        some = texts[start : start + TEXTS]
        other: NDArray[np.bool_] = np.array([[text not in own for text in some] for own in says], dtype=bool)
        other[owner[start : start + TEXTS], np.arange(len(some))] = False
        likeness = {
            PairKind.SHUFFLED: random.random(other.shape),
            PairKind.HARD: images @ model.embed_texts(some).T,
        }
        for kind, like in likeness.items():
            order = np.argsort(-np.where(other, like, -np.inf), axis=0, kind="stable")[:CANDIDATES]
            for number, text in enumerate(some):
                judged = bool(edits.unsaid(text, ()))
                for image in order[other[order[:, number], number], number]:
                    if not judged or edits.unsaid(text, pairs.texts[image]):
                        yield kind, int(image), text
                        break
