# ruff: noqa: RUF001 (signs of other scripts are what these tests are about)
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.texts import TextRule, TextRules, clean

PIECES = st.sampled_from(
    [
        "&amp;",
        "&lt;b&gt;",
        "&",
        "amp;",
        "#38;",
        "lt;",
        "<",
        "b>",
        "</p>",
        "<!--",
        "script",
        "<3",
        " ",
        "\t",
        "\u2028",
        "\u200b",
        "\u202e",
        "\u200d",
        "\u200c",
        "\ufeff",
        "\x00",
        "\x1b[31m",
        "\x85",
        "\ue000",
        "́",
        "e",
        "é",
        "Ã©",
        "â€™",
        "日本，語",
        "ﬁ",
        "क्\u200dष",
        "می\u200cخواهم",
        "👩\u200d👧",
        "🏴",
        "한국어",
        "ไทย",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=14).map("".join)


@given(TEXTS)
def test_cleaning_a_cleaned_text_changes_nothing(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned


@given(TEXTS)
def test_a_cleaned_text_has_nothing_that_cannot_be_seen(text: str) -> None:
    cleaned = clean(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned == " ".join(cleaned.split())
    assert not {sign for sign in cleaned if unicodedata.category(sign) in ("Cc", "Co", "Cs", "Zl", "Zp")}
    assert not set(cleaned) & set(
        "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
    )


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("schÃ¶n", "schön"),
        ("itâ€™s a dog", "it’s a dog"),
        ("&quot;Hi&quot; &amp;amp; bye &lt;3", '"Hi" & bye <3'),
        ("<p>A <b>red</b>dog<br/></p>", "A red dog"),
        ("A dog<script>alert(1)</script> barks", "A dog barks"),
        ("a < b and c > d", "a < b and c > d"),
        ("I <3 dogs", "I <3 dogs"),
        ("  two\n\tlines\u00a0", "two lines"),
        ("gpj\u202e.dog", "gpj.dog"),
        ("zero\u200bwidth\ufeff and soft\u00adhyphen", "zerowidth and softhyphen"),
        ("\x1b[31mred\x1b[0m\x07", "red"),
        ("cafe\u0301", "café"),
        ("\u200dx\u200dy", "xy"),
        ("&amp;" * 50, "&" * 50),
        ("<" * 9 + "b>", "<" * 8),
    ],
)
def test_what_is_repaired(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "“quoted” d’été — déjà vu",
        "红色的自行车，靠在墙上！",
        "ﾈｺと犬　".strip(),
        "ＡＢＣ株式会社",
        "می\u200cخواهم",
        "क्\u200dष नमस्ते",
        "👨\u200d👩\u200d👧 family",
        "❤\ufe0f",
        "Straße, İstanbul, Ærø, Łódź",
        "ภาพแมวสองตัว",
        "שלום עולם",
        "5 > 3 & 2 < 4",
    ],
)
def test_what_is_written_well_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    "piece", ["&amp;", "&#38;", "<script", "<a ", "&lt;", "a-", "_1", "1", "Ã©", "é\u200d", "a.", "<"]
)
def test_no_text_takes_long(piece: str) -> None:
    began = time.monotonic()
    TextRules(max_length=10**7).refuse(clean(piece * 50_000))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("IMG_1234.jpg", Reason.TEXT_FILE_NAME),
        ("IMG 1234", Reason.TEXT_FILE_NAME),
        ("DSC00012.JPG", Reason.TEXT_FILE_NAME),
        ("P1010023", Reason.TEXT_FILE_NAME),
        ("a-red-dog.webp", Reason.TEXT_FILE_NAME),
        ("Screenshot 2020-01-01 at 10.10.10 AM.png", Reason.TEXT_FILE_NAME),
        ("e3b0c44298fc1c149afbf4c8996fb924", Reason.TEXT_FILE_NAME),
        ("20190101_123456", Reason.TEXT_FILE_NAME),
        ("https://example.com/a?b=c", Reason.TEXT_URL),
        ("www.example.com", Reason.TEXT_URL),
        ("example.co.uk/shop", Reason.TEXT_URL),
        ("someone@example.com", Reason.TEXT_URL),
        ("Click to enlarge!", Reason.TEXT_BOILERPLATE),
        ("image", Reason.TEXT_BOILERPLATE),
        ("Photo 3 of 5", Reason.TEXT_BOILERPLATE),
        ("Untitled", Reason.TEXT_BOILERPLATE),
        ("No image available.", Reason.TEXT_BOILERPLATE),
        ("1969", Reason.TEXT_BOILERPLATE),
        ("***", Reason.TEXT_BOILERPLATE),
        ("a", Reason.TEXT_TOO_SHORT),
        ("a dog " * 200, Reason.TEXT_TOO_LONG),
        ("", Reason.EMPTY_TEXT),
    ],
)
def test_what_says_nothing_of_a_image(text: str, reason: Reason) -> None:
    assert TextRules().refuse(text) is reason


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "Photo of a dog",
        "Boeing 747",
        "iPhone 12",
        "an image of Mr. T",
        "Node.js",
        "富士",
        "P 3",
        "1 broken",
        "click to enlarge the dog",
        "St. Mary",
        "см. фото",
        "the logo of the club",
        "Sam 3",
    ],
)
def test_what_may_say_something_stays(text: str) -> None:
    assert TextRules().refuse(text) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [(TextRule.FILE_NAME, "IMG_1.jpg"), (TextRule.URL, "http://a.b/c"), (TextRule.BOILERPLATE, "image")],
)
def test_each_rule_can_be_switched_off(rule: TextRule, text: str) -> None:
    others = tuple(other for other in TextRule if other is not rule)
    assert TextRules(rules=others).refuse(text) is None
    assert TextRules(rules=(rule,)).refuse(text) is not None


def test_lengths_that_no_text_has() -> None:
    with pytest.raises(RecipeError, match="length"):
        TextRules(min_length=5, max_length=4)
