"""What is known of the models from held-out human pairs."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from capfilt.data_contracts.records.record import Cosine, Hex256, Probability, Record, Split


class PairKind(StrEnum):
    """A text that the filter judges with a human image: a caption of its own, or how it was made wrong.

    ``shuffled``: a caption of another image; ``hard``: of the image's neighbours, as ITC finds them; the others are
    a caption of its own with one thing edited (:mod:`capfilt.models.text.edits`).
    """

    OWN = "own"
    SHUFFLED = "shuffled"
    HARD = "hard"
    OBJECT = "object"
    ATTRIBUTE = "attribute"
    RELATION = "relation"


class HeldOutScore(Record):
    """The filter's judgement of a held-out human image with a text that is known to match or not."""

    key: ClassVar[tuple[str, ...]] = ("image_id", "kind", "text")

    split: Split
    image_id: Hex256
    text: str = Field(description="as the filter read it")
    kind: PairKind
    itm: Probability = Field(description="as in Score")
    itc: Cosine


class Author(StrEnum):
    """Whose caption it is that is held against what people say of an image."""

    CAPTIONER = "captioner"
    PERSON = "person"
    ANOTHER = "another"


class AuditedCaption(Record):
    """A caption of a held-out human image, held against the human captions of that image.

    Besides the captioner's there are two by which the check itself is known: a person's, held against the image's
    other captions, and a person's of another image.
    """

    key: ClassVar[tuple[str, ...]] = ("image_id", "author", "text")

    split: Split
    image_id: Hex256
    author: Author
    text: str = Field(description="as the filter reads it")
    itm: Probability | None = Field(description="as in Score; of the captioner's")
    unsaid: str = Field(description="what it says and people do not, separated by commas; empty: nothing")


class Metric(Record):
    """One figure of an evaluation, with its 95% interval where one was computed."""

    key: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int = Field(default=0, ge=0, description="the number of cases behind the figure")
    note: str = ""
