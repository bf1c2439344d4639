import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.fingerprint import identity_of
from capfilt.stages.ingest.sources.source import TEXT_COLUMNS, SourceSpec, choose, clean_texts


def test_a_column_is_recognised_in_any_case_and_in_the_order_of_preference() -> None:
    assert choose("", TEXT_COLUMNS, ["Alt", "CAPTION"], "t", "text_column") == "CAPTION"


def test_a_named_column_wins_and_must_be_there() -> None:
    assert choose("alt", TEXT_COLUMNS, ["text", "alt"], "t", "text_column") == "alt"
    with pytest.raises(SourceError, match="t has no column 'ALT'") as caught:
        choose("ALT", TEXT_COLUMNS, ["text", "alt"], "t", "text_column")
    assert "text, alt" in caught.value.evidence
    assert "`text_column`" in caught.value.remedy


def test_nothing_that_is_recognised() -> None:
    with pytest.raises(SourceError, match="no column of t is recognised as text") as caught:
        choose("", TEXT_COLUMNS, ["words"], "t", "text_column")
    assert "its columns: words" in caught.value.evidence


def test_texts_are_folded_and_told_apart() -> None:
    assert clean_texts([" a\n dog ", None, "", "a dog", "\u3000", "A dog"]) == ["a dog", "A dog"]


@given(st.lists(st.none() | st.text(" ab\n")))
def test_cleaning_texts_twice_changes_nothing(texts: list[str | None]) -> None:
    once = clean_texts(texts)
    assert clean_texts(once) == once
    assert all(once)


def test_where_a_source_lies_is_not_identity_and_what_it_holds_is() -> None:
    here = SourceSpec("web", "folder", "/here", captions="/here/c.csv", digest="d")
    assert identity_of(here) == identity_of(SourceSpec("web", "folder", "/there", digest="d"))
    assert identity_of(here) != identity_of(SourceSpec("web", "folder", "/here", digest="e"))
    assert identity_of(here) != identity_of(SourceSpec("crawl", "folder", "/here", digest="d"))
