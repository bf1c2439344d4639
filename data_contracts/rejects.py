"""What leaves: every row that is not kept has one reject with a reason."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from capfilt.data_contracts.records import Record


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
    BAD_URL = "bad_url"
    SCHEME = "scheme"
    PRIVATE_ADDRESS = "private_address"
    TAKEN_DOWN = "taken_down"
    ROBOTS = "robots"
    OPT_OUT = "opt_out"
    DNS = "dns"
    CONNECT = "connect"
    TIMEOUT = "timeout"
    TOO_SLOW = "too_slow"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    REDIRECTS = "redirects"
    DEADLINE = "deadline"
    FETCH_DIED = "fetch_died"
    HTTP_400 = "http_400"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_410 = "http_410"
    HTTP_429 = "http_429"
    HTTP_500 = "http_500"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    HTTP_504 = "http_504"
    HTTP_OTHER = "http_other"
    NOT_IMAGE = "not_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    ASPECT = "aspect"
    DECODER_DIED = "decoder_died"
    PLACEHOLDER = "placeholder"
    DUPLICATE_OF = "duplicate_of"
    HELD_OUT = "held_out"
    TEXT_FILE_NAME = "text_file_name"
    TEXT_URL = "text_url"
    TEXT_BOILERPLATE = "text_boilerplate"
    TEXT_TOO_SHORT = "text_too_short"
    TEXT_TOO_LONG = "text_too_long"
    OVER_CAP = "over_cap"
    POISON = "poison"

    @classmethod
    def of_status(cls, status: int) -> "Reason":
        """That of an HTTP status other than 200."""
        name = f"http_{status}"
        return cls(name) if name in set(cls) else cls.HTTP_OTHER


MEANING: dict[Reason, str] = {
    Reason.MISSING: "the source lists it, but it is not there",
    Reason.UNREADABLE: "the bytes are not an image that decodes",
    Reason.EMPTY: "a human image without a caption",
    Reason.EMPTY_TEXT: "nothing of the text is left for the model but punctuation",
    Reason.DUPLICATE_PAIR: "the same image bytes with the same text again in this shard",
    Reason.EMPTY_CAPTION: "the captioner wrote nothing",
    Reason.NO_WORDS: "the captioner wrote nothing but punctuation and special tokens",
    Reason.TOO_SHORT: "the caption has fewer words than caption.guard.min_words",
    Reason.PROMPT_ECHO: "the captioner wrote its prompt again",
    Reason.LOOP: "the caption says the same thing over and over, as in `dai dai dai`",
    Reason.BELOW_THRESHOLD: "the filter's ITM probability is below the threshold",
    Reason.NOT_BEST: "another text of the image scores higher, and the best is kept (select.rule, caption.keep)",
    Reason.WEB_TEXT_KEPT: "a web text of the same image was kept, so its synthetic text is not needed",
    Reason.BAD_URL: "the url cannot be read as one",
    Reason.SCHEME: "neither http nor https, in the list or after a redirect",
    Reason.PRIVATE_ADDRESS: "it leads to an address that is not public, and fetch.allow_private does not name it",
    Reason.TAKEN_DOWN: "the take-down list names its url, its domain or its bytes",
    Reason.ROBOTS: "the host's robots.txt says no, and fetch.robots is on",
    Reason.OPT_OUT: "its X-Robots-Tag forbids this use",
    Reason.DNS: "the host's name does not resolve",
    Reason.CONNECT: "no connection: refused, reset, or TLS failed",
    Reason.TIMEOUT: "not whole within fetch.timeout seconds",
    Reason.TOO_SLOW: "slower than fetch.min_rate",
    Reason.TRUNCATED: "the connection ended before the whole body came",
    Reason.TOO_LARGE: "more bytes than fetch.max_bytes, as sent or unpacked",
    Reason.REDIRECTS: "more redirects than fetch.max_redirects, or in a circle",
    Reason.DEADLINE: "its shard's time was up before its turn came",
    Reason.FETCH_DIED: "the process that fetched it died whenever it was handled",
    Reason.HTTP_400: "the server answered 400",
    Reason.HTTP_401: "the server answered 401",
    Reason.HTTP_403: "the server answered 403",
    Reason.HTTP_404: "the server answered 404",
    Reason.HTTP_410: "the server answered 410",
    Reason.HTTP_429: "the server answered 429",
    Reason.HTTP_500: "the server answered 500",
    Reason.HTTP_502: "the server answered 502",
    Reason.HTTP_503: "the server answered 503",
    Reason.HTTP_504: "the server answered 504",
    Reason.HTTP_OTHER: "the server answered with another status than 200",
    Reason.NOT_IMAGE: "HTML, SVG, text or another thing that is not a raster image",
    Reason.TOO_MANY_PIXELS: "more pixels than images.max_pixels: possibly a decompression bomb",
    Reason.TOO_SMALL: "a side shorter than images.min_side",
    Reason.ASPECT: "longer than images.max_aspect times its width, or wider",
    Reason.DECODER_DIED: "the process that decoded it died or took too long",
    Reason.PLACEHOLDER: "the same bytes under many unrelated urls and texts: a placeholder",
    Reason.DUPLICATE_OF: "the same image as one that stays, or nearly so; `detail` names it and says how alike",
    Reason.HELD_OUT: "held out for calibration, test or an evaluation, here or in a parent run, or nearly so",
    Reason.TEXT_FILE_NAME: "a text that is a file name, as in `IMG_1234.jpg`",
    Reason.TEXT_URL: "a text that is an address",
    Reason.TEXT_BOILERPLATE: "a text that says nothing of the image, as in `click to enlarge`",
    Reason.TEXT_TOO_SHORT: "a text of fewer characters than texts.min_length",
    Reason.TEXT_TOO_LONG: "a text of more characters than texts.max_length",
    Reason.OVER_CAP: "all of its words are in more pairs than select.balance allows, and its draw left it out",
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
    duplicate_of: str | None = Field(
        default=None, description="of a duplicate: the row_id that stays, or the held-out image's name"
    )
