"""What the web writes beside its images, made readable; and which of it says nothing of an image.

Cleaning repairs, it does not translate: no letter is put into ASCII, no accent, no fullwidth sign and no quotation
mark is replaced, because these are how a language is written. Rules judge the cleaned text.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from ftfy import TextFixerConfig, fix_text

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.rejects import Reason

# Mojibake, lone surrogates, terminal escapes. Quotes and fullwidth signs stay: both are right in many languages
# (a Chinese comma is fullwidth). Entities are undone here, after ftfy, wherever they stand.
_REPAIR = TextFixerConfig(
    unescape_html=False, uncurl_quotes=False, fix_character_width=False, normalization="NFC", explain=False
)
_NESTED = re.compile(r"&(?:amp;|#38;|#x26;)+", re.IGNORECASE)
_SCRIPT = re.compile(r"<(?:script|style)\b[^<>]*>[^<]*", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>|<[!?][^<>]*>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\x80-\x84\x86-\x9f]")
# Zero width or without a look of their own: soft hyphen, marks and overrides of direction, joiners of words, byte
# order marks, tags; and private letters, which only their own font can show.
_UNSEEN = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ue000-\uf8ff"
    "\U000e0000-\U000e007f\U000f0000-\U0010ffff]"
)
# A joiner (ZWNJ, ZWJ) belongs to Persian, to Indian scripts and to emoji: between two signs beyond Latin it stays.
_JOINER = re.compile("(?<![\u0300-\U0010ffff])[\u200c\u200d]+|[\u200c\u200d]+(?![\u0300-\U0010ffff])")
_ROUNDS = 8  # an honest text stands after two

_IMAGE_FILE = re.compile(r".*\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|avif|heic|svg|psd|raw|cr2|nef)", re.I)
_CAMERA = re.compile(
    r"(?:(?:img|image|dsc|dscn|dscf|dcim|pict|mvi|gopr|pxl|cimg|imag|screenshot|screen shot|whatsapp image)[ .#]*"
    r"|(?:p|sam|wp|pic|photo|scan|file))[-_]*\(?\d[\d\W_]*(?:at[\d\W_]*)?(?:[ap]m)?",
    re.I,
)
_HASH = re.compile(r"(?=.*\d)[0-9a-f]{16,}|[\d_\-]{8,}(?:[a-z]{1,2})?|\S*_[a-z0-9]*\d\S*_\S*", re.I)
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+|data:\S+|\S+@\S+\.[a-z]{2,}"
    r"|(?:[a-z0-9-]+\.)+(?:com|org|net|edu|gov|info|biz|io|co|uk|de|fr|it|es|nl|ru|jp|cn|in|br|au|ca|eu)(?:/\S*)?",
    re.I,
)
_NUMBERED = re.compile(
    r"(?:image|images|img|photo|photos|photograph|picture|pictures|pic|pics|slide|banner|thumbnail|thumb|figure|fig"
    r"|gallery|product|page|item)(?: image| photo| picture)?(?: ?(?:no|nr|number))? ?\d*(?: ?(?:of|out of) ?\d+)?"
)
_PHRASES = """
ad | advertisement | alt | alt text | avatar | background | blank | click for full size |
click for larger image | click for larger view | click here | click image for larger view |
click image to enlarge | click on image to enlarge | click on the image to enlarge |
click on the picture to enlarge | click the image to enlarge | click the picture to enlarge | click to enlarge
| click to enlarge image | click to enlarge photo | click to enlarge picture | click to expand | click to open
| click to see full size | click to see larger image | click to view | click to view full size |
click to view larger | click to view larger image | click to zoom | close | coming soon | cover | cover image
| default | default image | download | enlarge | enlarge image | facebook | featured image | full size |
full size image | hero image | home | icon | image coming soon | image may contain |
image may contain no people | image may contain text | image missing | image not available | image not found |
image placeholder | image result | image unavailable | instagram | learn more | like | loading | loading image
| loading please wait | logo | main image | menu | more | more info | more information | n a | na | nan | next
| no alt text | no alternative text description for this image | no caption | no description |
no description available | no description available for this image | no image | no image available |
no image found | no photo | no photo available | no photo description available | no picture |
no picture available | no preview available | no text | no title | none | null | open image in new window |
photo not available | photo unavailable | picture not available | pin it | pinterest | placeholder |
placeholder image | play | play video | post image | preview | preview image | previous | print |
product image | profile photo | profile picture | read more | search | see more | share | show more | spacer |
tap to zoom | this image has an empty alt attribute | thumbnail image | title | twitter | undefined | unknown
| unnamed | unnamed file | untitled | untitled 1 | untitled design | user avatar | video | view | view details
| view full size | view image | view larger | view larger image | view more | youtube | zoom | zoom image |
zoom in
"""
_STOCK = frozenset(" ".join(phrase.split()) for phrase in _PHRASES.split("|"))


class TextRule(StrEnum):
    """Which texts say nothing of an image: a file's name, an address, what any page says."""

    FILE_NAME = "file_name"
    URL = "url"
    BOILERPLATE = "boilerplate"


@dataclass(frozen=True)
class TextRules:
    """Which cleaned web texts leave. Lengths are in characters; all of it is identity."""

    rules: tuple[TextRule, ...] = tuple(TextRule)
    min_length: int = 2
    max_length: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.min_length <= self.max_length:
            raise RecipeError(
                what="no text can have such a length",
                evidence=f"TextRules.min_length is {self.min_length}, TextRules.max_length {self.max_length}",
                remedy="min_length is 0 or more and at most max_length",
            )

    def refuse(self, text: str) -> Reason | None:
        """Why a cleaned text leaves; ``None`` if it may stay."""
        if not text:
            return Reason.EMPTY_TEXT
        if len(text) > self.max_length:
            return Reason.TEXT_TOO_LONG
        for rule, says, reason in (
            (TextRule.URL, is_address, Reason.TEXT_URL),
            (TextRule.FILE_NAME, names_file, Reason.TEXT_FILE_NAME),
            (TextRule.BOILERPLATE, is_boilerplate, Reason.TEXT_BOILERPLATE),
        ):
            if rule in self.rules and says(text):
                return reason
        return Reason.TEXT_TOO_SHORT if len(text) < self.min_length else None


def clean(text: str) -> str:
    """The text repaired, without markup and what cannot be seen, white space folded, in NFC.

    Cleaning a cleaned text changes nothing. A text that is not done after some rounds, because one layer of escapes
    lies in another, was made to be so: nothing is left of it.
    """
    for _ in range(_ROUNDS):
        cleaned = _round(text)
        if cleaned == text:
            return text
        text = cleaned
    return ""


def _round(text: str) -> str:
    text = html.unescape(_NESTED.sub("&", fix_text(text, _REPAIR)))
    text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    text = _UNSEEN.sub("", _CONTROL.sub(" ", text))
    return unicodedata.normalize("NFC", " ".join(_JOINER.sub("", text).split()))


def names_file(text: str) -> bool:
    """`IMG_1234`, `a-red-dog.jpg`, a camera's or a server's number."""
    return bool(_IMAGE_FILE.fullmatch(text) or _CAMERA.fullmatch(text) or _HASH.fullmatch(text))


def is_address(text: str) -> bool:
    """A url, the name of a site, an e-mail address."""
    return bool(_URL.fullmatch(text))


def is_boilerplate(text: str) -> bool:
    """A stock phrase, or nothing with a letter or a pictogram in it."""
    if not any(unicodedata.category(sign) in _SAYING for sign in text):
        return True
    words = " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))
    return words in _STOCK or bool(_NUMBERED.fullmatch(words))


_SAYING = frozenset(["Lu", "Ll", "Lt", "Lm", "Lo", "So"])
