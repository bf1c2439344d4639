import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from capfilt.stages.ingest.sources.columns import extras, strings, texts
from capfilt.stages.ingest.sources.source import clean_texts

WORDS = st.none() | st.text(
    st.characters(codec="utf-8") | st.sampled_from(" \t\n\x0b\x1c\x85\xa0\u2003\u3000\u200b")
)


@given(st.lists(WORDS, max_size=20))
@example([" \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000a\u3000b\x00 ", "\u180e\u200b\ufeff"])
def test_texts_are_cleaned_as_everywhere_else(words: list[str | None]) -> None:
    wanted = [clean_texts([word]) for word in words]
    assert texts(words).to_pylist() == wanted
    assert texts(pa.array(words, pa.string())).to_pylist() == wanted
    assert texts(pa.array(words, pa.large_string())).to_pylist() == wanted


@given(st.lists(st.none() | st.lists(WORDS, max_size=4), max_size=10), st.integers(0, 3))
def test_lists_of_texts_and_slices_of_them(lists: list[list[str | None] | None], skip: int) -> None:
    found = texts(pa.array(lists, pa.list_(pa.string())).slice(skip)).to_pylist()
    assert [list(dict.fromkeys(own)) for own in found] == [clean_texts(own or []) for own in lists[skip:]]


def test_python_values_of_any_kind() -> None:
    assert strings([None, 7, "x", True, "\ud800"]).to_pylist() == [None, "7", "x", "True", "\ufffd"]
    assert texts([["a", " a ", 3], None, "b", 4.5, []]).to_pylist() == [["a", "3"], [], ["b"], ["4.5"], []]


def test_arrow_values_of_any_kind() -> None:
    assert strings(pa.array([1, None])).to_pylist() == ["1", None]
    assert strings(pa.array(["a", None, "a"]).dictionary_encode()).to_pylist() == ["a", None, "a"]
    assert strings(pa.array(["a"], pa.string_view())).to_pylist() == ["a"]
    assert strings(pa.array([b"\xe9", b"", None, "\u00e9".encode()])).to_pylist() == [
        "\u00e9",
        "",
        None,
        "\u00e9",
    ]


def test_extras_are_json_and_null_where_nothing_is_kept() -> None:
    assert extras({}, (), 2).to_pylist() == [None, None]
    columns = {"a": pa.array([1.5, None]), "b": ["x\ud800", b"y"]}
    assert extras(columns, ("b", "a", "gone"), 2).to_pylist() == [
        '{"b": "x\ufffd", "a": 1.5, "gone": null}',
        '{"b": "b\'y\'", "a": null, "gone": null}',
    ]
