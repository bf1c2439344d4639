"""What leaves: every row that is not kept has one reject with a reason."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from data_contracts.records import Record


class Reason(StrEnum):
    """Why a unit (an image occurrence or a text) left."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    EMPTY_TEXT = "empty_text"
    DUPLICATE_PAIR = "duplicate_pair"
    EMPTY_CAPTION = "empty_caption"
    NO_WORDS = "no_words"
    TOO_SHORT = "too_short"
    PROMPT_ECHO = "prompt_echo"
    LOOP = "loop"
    BELOW_THRESHOLD = "below_threshold"
    NOT_BEST = "not_best"
    WEB_TEXT_KEPT = "web_text_kept"
    POISON = "poison"


MEANING: dict[Reason, str] = {
    Reason.MISSING: "the source lists it, but it is not there",
    Reason.UNREADABLE: "the bytes are not a picture that decodes",
    Reason.EMPTY: "a human picture without a caption",
    Reason.EMPTY_TEXT: "nothing of the text is left for the model but punctuation",
    Reason.DUPLICATE_PAIR: "the same image bytes with the same text again in this shard",
    Reason.EMPTY_CAPTION: "the captioner wrote nothing",
    Reason.NO_WORDS: "the captioner wrote nothing but punctuation and special tokens",
    Reason.TOO_SHORT: "the caption has fewer words than caption.guard.min_words",
    Reason.PROMPT_ECHO: "the captioner wrote its prompt again",
    Reason.LOOP: "the caption says the same thing over and over, as in `dai dai dai`",
    Reason.BELOW_THRESHOLD: "the filter's ITM probability is below the threshold",
    Reason.NOT_BEST: "another text of the same image scores higher, and the rule keeps the best",
    Reason.WEB_TEXT_KEPT: "a web text of the same image was kept, so its synthetic text is not needed",
    Reason.POISON: "its process died or raised whenever it was handled, its neighbours' did not",
}


class Reject(Record):
    """A unit that left a stage."""

    key: ClassVar[tuple[str, ...]] = ()

    id: str = Field(description="the unit's id: row_id of an image, pair_id of a text")
    row_id: str = Field(description="the image occurrence that it belongs to")
    stage: str
    unit: str = Field(description="image or text")
    reason: Reason
    detail: str
