from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from capfilt.data_contracts.identity import image_id, pair_id, row_id, split_of
from capfilt.data_contracts.records import Split

# What a Parquet file or a URL can hold. The unit separator joins the parts, so it is not drawn here.
WORDS = st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]))


def test_pinned_digests() -> None:
    """These are in users' exports: another value is another dataset."""
    assert row_id("web", "https://example.org/a.jpg") == "dba50e469eb4a655f62b0cc27bb8ad8f"
    assert image_id(b"bytes") == "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    assert pair_id(image_id(b"bytes"), "a dog") == "26acef4f840fa0d9102a602359e9f97f"
    assert row_id("web", "caf\u00e9/\U0001f600.png") == "d85e0794b688f043a16d4ec49bbbdd77"


def test_pinned_splits() -> None:
    splits = [split_of(image_id(bytes([number]))) for number in range(12)]
    expected = "train train train train train calibrate train train train train train test"
    assert splits == expected.split()


@given(WORDS, WORDS, WORDS, WORDS)
def test_joined_parts_stay_apart(a: str, b: str, c: str, d: str) -> None:
    assert (row_id(a, b) == row_id(c, d)) == ((a, b) == (c, d))


@given(WORDS, WORDS.filter(bool), WORDS)
def test_a_border_that_moves_is_another_id(a: str, b: str, c: str) -> None:
    assume((a + b, c) != (a, b + c))
    assert pair_id(a + b, c) != pair_id(a, b + c)


def test_a_lone_surrogate_has_an_id() -> None:
    """File names on Linux are bytes: Python reads the odd ones as lone surrogates."""
    assert len(row_id("web", "\udcff.jpg")) == 32


def test_splits_are_80_10_10() -> None:
    count = Counter(split_of(image_id(str(number).encode())) for number in range(10_000))
    assert 7_850 < count[Split.TRAIN] < 8_150
    assert 880 < count[Split.CALIBRATE] < 1_120
    assert 880 < count[Split.TEST] < 1_120
