"""Images on their way: listed, ingested, embedded, deduplicated.

The row that travels is an *image occurrence*: a url (or a path relative to its source) with the list of its web
texts. A stage writes only its new columns, keyed by id, in the same shard as its input.
"""

from typing import ClassVar

from pydantic import Field

from capfilt.data_contracts.records.record import (
    Cosine,
    Hex128,
    Hex256,
    Pixels,
    Probability,
    Record,
    Source,
    Split,
    Vector,
)


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


class IngestedImage(Record):
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
    """An image whose bytes stand under many unrelated texts: what a site shows when it has no image."""

    key: ClassVar[tuple[str, ...]] = ("image_id",)

    image_id: Hex256
    rows: int = Field(ge=2, description="the rows that have these bytes")
    hosts: int = Field(ge=1, description="the hosts that they come from; local files count as one")
    texts: int = Field(ge=2, description="their different texts")
    likeness: Probability = Field(description="of two of them, mean share of common trigrams")
    example: str = Field(description="a url")


class HumanImage(IngestedImage):
    """An image with its human captions and what it is for."""

    split: Split


class CleanedPart(Record):
    """A part of the cleaned dataset of a parent run. Names are relative to the folders of its runs."""

    key: ClassVar[tuple[str, ...]] = ("export",)

    export: str = Field(description="the part of the export")
    sha256: Hex256
    images: str | None = Field(
        description="the part of `ingest` or `human` with the original bytes, if it stands"
    )
    scores: str | None = Field(description="the part of `score`; null of human pairs")


class CleanedImage(IngestedImage):
    """An image that a parent run kept, with the texts that it kept, and where each comes from."""

    sources: list[Source] = Field(description="of each text: web, synthetic or human")
    pair_ids: list[str] = Field(description="of each text")
    rounds: list[int] = Field(description="of each text: the round that made it")
    parent: str = Field(description="the parent run's name")


class Embedding(Record):
    """An image and its web texts as a model aligns them: L2-normalised, so that products are cosines."""

    row_id: Hex128
    image_id: Hex256
    pixels: int = Field(ge=1, description="width times height")
    hash: Hex256 = Field(
        description="perceptual: 256 bits, of which a re-encoded or resized copy keeps almost all"
    )
    itc: Cosine | None = Field(
        description="the highest cosine of a web text with the image; null without one"
    )
    image: Vector
    texts: list[Vector] = Field(description="one for each of the image's texts, in their order")


class HeldOutImage(Record):
    """An image that must not be trained on: of the human calibrate and test splits, or of an evaluation set."""

    key: ClassVar[tuple[str, ...]] = ("image_id", "name")

    image_id: Hex256
    name: str = Field(
        description="the split and the url, or the path of the evaluation set and the file in it"
    )
    hash: Hex256
    image: Vector


class UniqueImage(Record):
    """An image that goes on: no duplicate of another one, none that is held out."""

    row_id: Hex128
    image_id: Hex256
    rows: int = Field(ge=1, description="the rows that it stands for, itself among them")
    texts: list[str] = Field(description="what its duplicates said beside its own, where they are gathered")
