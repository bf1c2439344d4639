"""The records that travel: one frozen model each, from which the Arrow schema is derived.

The row that travels is an *image occurrence*: a url (or a path relative to its source) with the list of
its web texts. A stage writes only its new columns, keyed by id, in the same shard as its input.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Hex128 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]


@dataclass(frozen=True)
class Half:
    """Marks a list of floats as a vector of float16. In one table all are of one length, which a model gives."""


Vector = Annotated[list[float], Half()]


class Split(StrEnum):
    """What a human image is for: training, setting the threshold, or every reported figure."""

    TRAIN = "train"
    CALIBRATE = "calibrate"
    TEST = "test"


class Source(StrEnum):
    """Where a text comes from."""

    WEB = "web"
    SYNTHETIC = "synthetic"
    HUMAN = "human"


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


class Record(BaseModel):
    """A row of a contract. ``version`` rises when a column changes its meaning, name or type.

    ``key`` names the columns that are unique within a part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[int] = 1
    key: ClassVar[tuple[str, ...]] = ("row_id",)


class Occurrence(Record):
    """A place in a source where an image is said to be, and the texts found with it."""

    version: ClassVar[int] = 2

    row_id: Hex128
    source_name: str = Field(description="the source's name in the recipe")
    url: str = Field(description="the url, or the path relative to the source")
    texts: list[str]
    place: str = Field(
        description="where the bytes are: a path; a Parquet file, row group and row; a tar, offset and size; a url"
    )
    size: int = Field(ge=0, description="bytes, as the listing saw it; 0 of a url")
    extra: str | None = Field(
        default=None, description="the source's other columns that `keep_columns` names: a JSON object"
    )


class Picture(Record):
    """An image that was read and decodes, with its original bytes and its cleaned web texts."""

    version: ClassVar[int] = 2

    row_id: Hex128
    image_id: Hex256
    source_name: str
    url: str
    texts: list[str]
    image: bytes = Field(description="the original bytes, not re-encoded")
    format: str = Field(description="the format found in the bytes, such as JPEG")
    width: Pixels
    height: Pixels
    extra: str | None = Field(default=None, description="the occurrence's")


class Placeholder(Record):
    """An image whose bytes stand under many unrelated texts: what a site shows when it has no picture."""

    key: ClassVar[tuple[str, ...]] = ("image_id",)

    image_id: Hex256
    rows: int = Field(ge=2, description="the rows that have these bytes")
    hosts: int = Field(ge=1, description="the hosts that they come from; local files count as one")
    texts: int = Field(ge=2, description="their different texts")
    likeness: Probability = Field(description="of two of them, mean share of common trigrams")
    example: str = Field(description="a url")


class HumanPicture(Picture):
    """An image with its human captions and what it is for."""

    split: Split


class CleanedPart(Record):
    """A part of the cleaned dataset of a parent run. Names are relative to the folders of its runs."""

    key: ClassVar[tuple[str, ...]] = ("export",)

    export: str = Field(description="the part of the export")
    sha256: Hex256
    pictures: str | None = Field(
        description="the part of `ingest` or `human` with the original bytes, if it stands"
    )
    scores: str | None = Field(description="the part of `score`; null of human pairs")


class CleanedPicture(Picture):
    """An image that a parent run kept, with the texts that it kept, and where each comes from."""

    sources: list[Source] = Field(description="of each text: web, synthetic or human")
    pair_ids: list[str] = Field(description="of each text")
    rounds: list[int] = Field(description="of each text: the round that made it")
    parent: str = Field(description="the parent run's name")


class Embedding(Record):
    """A picture and its web texts as a model aligns them: L2-normalised, so that products are cosines."""

    row_id: Hex128
    image_id: Hex256
    pixels: int = Field(ge=1, description="width times height")
    hash: Hex256 = Field(
        description="perceptual: 256 bits, of which a re-encoded or resized copy keeps almost all"
    )
    itc: Cosine | None = Field(
        description="the highest cosine of a web text with the picture; null without one"
    )
    image: Vector
    texts: list[Vector] = Field(description="one for each of the picture's texts, in their order")


class Holdout(Record):
    """A picture that must not be trained on: of the human calibrate and test splits, or of an evaluation set."""

    key: ClassVar[tuple[str, ...]] = ("image_id", "name")

    image_id: Hex256
    name: str = Field(
        description="the split and the url, or the path of the evaluation set and the file in it"
    )
    hash: Hex256
    image: Vector


class Unique(Record):
    """A picture that goes on: no duplicate of another one, none that is held out."""

    row_id: Hex128
    image_id: Hex256
    rows: int = Field(ge=1, description="the rows that it stands for, itself among them")
    texts: list[str] = Field(description="what its duplicates said beside its own, where they are gathered")


class Caption(Record):
    """A synthetic text written by the captioner."""

    key: ClassVar[tuple[str, ...]] = ("row_id", "caption_index")

    row_id: Hex128
    image_id: Hex256
    caption_index: int = Field(ge=0)
    text: str
    logprob: float = Field(le=1e-3, description="sum over tokens under the model, nats")


class Word(Record):
    """A content word that is frequent in the web texts, and whether the human captions know it."""

    key: ClassVar[tuple[str, ...]] = ("word",)

    word: str
    web_texts: int = Field(ge=1, description="web texts that have it")
    human_texts: int = Field(ge=0, description="human captions of the train split that have it")
    covered: bool = Field(description="whether that is enough of them to learn it from")


class Alignment(Record):
    """How well a web text fits its image by the pretrained model, before anything is finetuned."""

    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    itc: Cosine = Field(description="cosine of the unimodal embeddings")


class Score(Record):
    """The filter's judgement of one text, web or synthetic, of one image."""

    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    image_id: Hex256
    source: Source
    caption_index: int | None = Field(ge=0, description="of a synthetic text; null for web text")
    text: str
    itm: Probability = Field(
        description="the filter's probability of a match; (1 + itc) / 2 of a CLIP filter, which gives none"
    )
    itc: Cosine = Field(description="cosine of the unimodal embeddings")


class JudgedPair(Record):
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


class CheckedCaption(Record):
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


class Decision(Record):
    """A text that selection keeps. What it drops is a reject with a reason."""

    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    source: Source
    itm: Probability
    threshold: float = Field(description="the ITM probability that it had to reach")


class WordCount(Record):
    """A word that more of the selected pairs have than select.balance allows."""

    key: ClassVar[tuple[str, ...]] = ("word",)

    word: str
    pairs: int = Field(ge=1, description="the selected pairs that have it")
    kept: int = Field(ge=0, description="those of them that stay")


class CleanPair(Record):
    """One image-text pair of the cleaned dataset, with where it comes from."""

    version: ClassVar[int] = 2
    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    image_id: Hex256
    image: bytes | None = Field(description="the original bytes when the export embeds them")
    width: Pixels
    height: Pixels
    source_name: str
    url: str
    text: str
    source: Source
    itm: Probability | None = Field(description="null for human pairs, which are not judged")
    itc: Cosine | None
    caption_index: int | None = Field(ge=0)
    split: Split | None = Field(description="of a human pair; keep `test` out of training; null otherwise")
    round: int = Field(ge=1)
    extra: str | None = Field(
        default=None, description="the picture's: other columns of its source, a JSON object"
    )


class CleanId(Record):
    """A row of a subset list: which pairs stay, without any content."""

    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    image_id: Hex256
    source: Source


class TrainingStep(Record):
    """What one optimiser step reported; null where a figure does not belong to the job."""

    version: ClassVar[int] = 2
    key: ClassVar[tuple[str, ...]] = ("step",)

    step: int = Field(ge=1)
    loss: float
    itc: float | None
    itm: float | None
    itm_accuracy: Probability | None
    lm: float | None
    recall: Probability | None = Field(description="ITC's running recall at 1 within the batch")
    accuracy: Probability | None = Field(description="of the warm-up's classification")
    temperature: float | None = Field(description="ITC's")
    lr: float = Field(ge=0.0)
    grad_norm: float = Field(ge=0.0)
    seconds: float = Field(ge=0.0, description="wall-clock time of the step")
    validation_recall: Probability | None = Field(description="ITC's at 1, among the held-out human images")
    validation_itc_auc: Probability | None = Field(description="held-out human pairs against shuffled ones")
    validation_itm: float | None = Field(description="ITM's loss on these")
    validation_itm_accuracy: Probability | None
    validation_itm_auc: Probability | None
    validation_lm: float | None = Field(description="LM's loss on the held-out human pairs, not smoothed")
    validation_same: Probability | None = Field(
        description="of their images, the largest share that gets one and the same greedy caption"
    )


class Metric(Record):
    """One figure of an evaluation, with its 95% interval where one was computed."""

    key: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    value: float
    low: float | None
    high: float | None
    count: int = Field(ge=0, description="the number of cases behind the figure")
    note: str
