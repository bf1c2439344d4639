"""Hold the captioner's captions of held-out human images against what people say of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import AuditedCaption, Author, HumanImage, Record, Split
from capfilt.models.protocols import FLOAT32, Captioner, Decoding, Inference
from capfilt.models.text.edits import Edits
from capfilt.models.text.normalise import normalise_caption
from capfilt.stages.evaluation.human_pairs import HeldOut, held_out
from capfilt.stages.evaluation.score_held_out import SPLITS, human_edits
from capfilt.stages.stage import MODEL_LIBRARIES, GlobalStage, ModelRef, Rows, Site, StageInput

if TYPE_CHECKING:
    from capfilt.models.open import Filter


@dataclass(frozen=True)
class AuditCaptions(GlobalStage):
    """One part for each of the two splits. The captioner writes as it does for the crawl, the filter judges, and
    whatever a caption says and no person does is written down (:meth:`capfilt.models.text.edits.Edits.unsaid`).

    That sees what a filter does not: the errors of a captioner that was pretrained with it (BLIP, table 4). Human
    captions go through the same check, against the others of their image and against another image's: so it is known
    how far people's captions may judge. ``most`` images of a split are captioned.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage,)
    produces: ClassVar[type[Record]] = AuditedCaption
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "caption"
    may_find_nothing: ClassVar[bool] = True

    filter: ModelRef
    captioner: ModelRef
    decoding: Decoding
    inference: Inference = FLOAT32
    most: int = 2000

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows]:
        from capfilt.models.open import open_captioner, open_filter

        edits = human_edits(inputs)
        captioner = open_captioner(site.models[self.captioner], site.device, site.batch, self.inference)
        filter = open_filter(site.models[self.filter], site.device, site.batch, self.inference)
        for number, split in enumerate(SPLITS):
            pairs = held_out(inputs, split, most=self.most)
            rows = [*people(pairs, split, edits), *self._written(pairs, split, edits, captioner, filter)]
            yield Rows(Contract(AuditedCaption).table(rows), shard=f"{number:07}", units=len(rows))

    def _written(
        self, pairs: HeldOut, split: Split, edits: Edits, captioner: Captioner, filter: "Filter"
    ) -> Iterator[AuditedCaption]:
        if not pairs.images:
            return
        written = captioner.caption(pairs.images, pairs.image_ids, self.decoding)
        texts = [
            list(
                dict.fromkeys(text for one in some if (text := normalise_caption(" ".join(one.text.split()))))
            )
            for some in written
        ]
        found = filter.match(pairs.images, texts)
        for image, said, own, matches in zip(pairs.image_ids, pairs.texts, texts, found, strict=True):
            for text, match in zip(own, matches, strict=True):
                unsaid = ", ".join(edits.unsaid(text, said))
                yield AuditedCaption(
                    split=split,
                    image_id=image,
                    author=Author.CAPTIONER,
                    text=text,
                    itm=match.itm,
                    unsaid=unsaid,
                )


def people(pairs: HeldOut, split: Split, edits: Edits) -> Iterator[AuditedCaption]:
    """Every human caption against the others of its image, if there are, and against those of the next image."""
    for at, (image, own) in enumerate(zip(pairs.image_ids, pairs.texts, strict=True)):
        said = {Author.PERSON: [(text, [one for one in own if one != text]) for text in own]}
        before = pairs.texts[at - 1]
        said[Author.ANOTHER] = [(text, list(own)) for text in before if text not in own]
        for author, some in said.items():
            for text, others in some:
                if others:
                    unsaid = ", ".join(edits.unsaid(text, others))
                    yield AuditedCaption(
                        split=split, image_id=image, author=author, text=text, itm=None, unsaid=unsaid
                    )
