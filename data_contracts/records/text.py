"""Texts of images: captions, scores, what is selected, and the pairs of the cleaned dataset."""

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
)


class WordCoverage(Record):
    """A content word that is frequent in the web texts, and whether the human captions know it."""

    key: ClassVar[tuple[str, ...]] = ("word",)

    word: str
    web_texts: int = Field(ge=1, description="web texts that have it")
    human_texts: int = Field(ge=0, description="human captions of the train split that have it")
    covered: bool = Field(description="whether that is enough of them to learn it from")


class WebSimilarity(Record):
    """How well a web text fits its image by the pretrained model, before anything is finetuned."""

    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    itc: Cosine = Field(description="cosine of the unimodal embeddings")


class Caption(Record):
    """A synthetic text written by the captioner."""

    key: ClassVar[tuple[str, ...]] = ("row_id", "caption_index")

    row_id: Hex128
    image_id: Hex256
    caption_index: int = Field(ge=0)
    text: str
    logprob: float = Field(le=1e-3, description="sum over tokens under the model, nats")


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
        default=None, description="the image's: other columns of its source, a JSON object"
    )


class CleanId(Record):
    """A row of a subset list: which pairs stay, without any content."""

    key: ClassVar[tuple[str, ...]] = ("pair_id",)

    pair_id: Hex128
    row_id: Hex128
    image_id: Hex256
    source: Source
