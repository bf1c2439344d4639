import inspect
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from capfilt.data_contracts import records, rejects
from capfilt.data_contracts.contract import Contract, matrix, vectors
from capfilt.data_contracts.errors import ContractError
from capfilt.data_contracts.records import (
    CleanPair,
    Decision,
    Embedding,
    IngestedImage,
    Occurrence,
    Record,
    Score,
    Source,
    Split,
)

RECORDS = [
    found
    for module in (records, rejects)
    for _, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, Record) and found is not Record and found.__module__ == module.__name__
]

A, B = "a" * 32, "b" * 32
IMAGE = "c" * 64


def score(**changes: Any) -> dict[str, Any]:
    row = {
        "pair_id": A,
        "row_id": B,
        "image_id": IMAGE,
        "source": "web",
        "caption_index": None,
        "text": "a dog",
    }
    return {**row, "itm": 0.5, "itc": 0.1, **changes}


def table(record: type[Record], *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), Contract(record).schema)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_record_has_a_schema_that_says_what_it_is(record: type[Record]) -> None:
    schema = Contract(record).schema
    assert schema.names == list(record.model_fields)
    assert schema.metadata == {
        b"capfilt.contract": record.__name__.encode(),
        b"capfilt.version": str(record.version).encode(),
    }
    assert set(record.key) <= set(schema.names)
    empty = Contract(record).table([])
    assert (empty.num_rows, empty.schema) == (0, schema)


def test_types_and_nullability_come_from_the_annotations() -> None:
    schema = Contract(CleanPair).schema
    assert schema.field("image") == pa.field("image", pa.large_binary(), nullable=True)
    assert schema.field("width") == pa.field("width", pa.int64(), nullable=False)
    assert schema.field("source") == pa.field("source", pa.string(), nullable=False)
    assert schema.field("itm") == pa.field("itm", pa.float64(), nullable=True)
    assert schema.field("split") == pa.field("split", pa.string(), nullable=True)
    texts = Contract(Occurrence).schema.field("texts")
    assert texts.type == pa.list_(pa.field("element", pa.string(), nullable=False))
    assert Contract(Occurrence).schema.field("size").metadata == {
        b"doc": b"bytes, as the listing saw it; 0 of a url"
    }


def test_the_identity_names_the_version() -> None:
    assert Contract(Score).identity == "Score/1"


BREACHES: list[tuple[type[Record], dict[str, Any], str]] = [
    (Score, {"itm": 1.5}, "itm is above 1.0"),
    (Score, {"itm": -0.1}, "itm is below 0.0"),
    (Score, {"itm": math.nan}, "itm is not a finite number"),
    (Score, {"itc": -1.01}, "itc is below -1.001"),
    (Score, {"itc": math.inf}, "itc is not a finite number"),
    (Score, {"caption_index": -1}, "caption_index is below 0"),
    (Score, {"source": "crawl"}, "source is not known"),
    (Score, {"image_id": "C" * 64}, "image_id does not match"),
    (Score, {"image_id": "c" * 63}, "image_id does not match"),
    (Score, {"image_id": "c" * 64 + "\n"}, "image_id does not match"),
    (Score, {"text": None}, "text is null"),
    (Score, {"itm": None}, "itm is null"),
]


@pytest.mark.parametrize(("record", "change", "says"), BREACHES, ids=lambda value: str(value)[:40])
def test_every_kind_of_breach_names_column_count_and_ids(
    record: type[Record], change: dict[str, Any], says: str
) -> None:
    keys = [f"{number:032x}" for number in range(5)]
    rows = [score(pair_id=keys[0])] + [score(pair_id=key, **change) for key in keys[1:]]
    with pytest.raises(ContractError) as caught:
        Contract(record).check(table(record, *rows))
    assert f"Score: column {says}" in caught.value.what
    assert "in 4 rows" in caught.value.what
    assert caught.value.evidence == ", ".join(keys[1:4])


def test_one_row_is_not_rows() -> None:
    with pytest.raises(ContractError, match=r"in 1 row\n"):
        Contract(Score).check(table(Score, score(itm=2.0)))


def test_bounds_of_nullable_columns_let_nulls_pass() -> None:
    optional = {"image": None, "itm": None, "itc": None, "caption_index": None, "split": None}
    row = {name: value for name, value in score().items() if name != "source"} | optional
    row |= {"width": 1, "height": 1, "source_name": "web", "url": "u", "source": "human", "round": 1}
    Contract(CleanPair).check(table(CleanPair, row))
    with pytest.raises(ContractError, match="column itm is above"):
        Contract(CleanPair).check(table(CleanPair, {**row, "itm": 1.1}))


def test_a_null_within_a_list_is_a_breach() -> None:
    row = {"row_id": A, "source_name": "web", "url": "u", "texts": ["a", None], "place": "p", "size": 0}
    sound = {**row, "row_id": B, "texts": ["a"]}
    rows = pa.concat_tables([table(Occurrence, sound), table(Occurrence, row)])
    with pytest.raises(ContractError, match="column texts holds a null in 1 row") as caught:
        Contract(Occurrence).check(rows)
    assert caught.value.evidence == A


def test_a_key_is_unique_in_a_table_and_over_several() -> None:
    with pytest.raises(ContractError, match="pair_id is not unique in 1 row") as caught:
        Contract(Score).check(table(Score, score(), score(text="another")))
    assert caught.value.evidence == A
    once = table(Score, score())
    Contract(Score).check_key([once, table(Score, score(pair_id=B))])
    with pytest.raises(ContractError, match="not unique"):
        Contract(Score).check_key([once, once])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns("itm"), "itm is missing"),
        (lambda t: t.append_column("more", pa.array([1])), "more is unexpected"),
        (lambda t: t.set_column(6, "itm", pa.array([1])), "itm is .*int64.* instead of .*double"),
        (lambda t: t.select(t.column_names[::-1]), "the columns' order"),
    ],
)
def test_another_schema_is_refused_with_the_difference(change: Any, says: str) -> None:
    with pytest.raises(ContractError, match="is not a Score") as caught:
        Contract(Score).check(change(table(Score, score())))
    assert caught.value.evidence
    assert re.search(says, caught.value.evidence)


HEX32 = st.text("0123456789abcdef", min_size=32, max_size=32)
SCORES = st.builds(
    Score,
    pair_id=HEX32,
    row_id=HEX32,
    image_id=st.text("0123456789abcdef", min_size=64, max_size=64),
    source=st.sampled_from(Source),
    caption_index=st.none() | st.integers(0, 2**31),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    itm=st.floats(0, 1),
    itc=st.floats(-1, 1),
)


@given(st.lists(SCORES, unique_by=lambda row: row.pair_id, max_size=5))
def test_valid_rows_go_to_parquet_and_come_back(rows: list[Score]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(Contract(Score).table(rows), sink)
    read = pq.read_table(sink.getvalue())
    Contract(Score).check(read)
    assert [Score(**row) for row in read.to_pylist()] == rows


@given(
    st.fixed_dictionaries(
        {
            "itm": st.floats(-0.5, 1.5) | st.just(math.nan),
            "itc": st.floats(-1.5, 1.5),
            "caption_index": st.none() | st.integers(-2, 2),
            "source": st.sampled_from(["web", "synthetic", "elsewhere"]),
        }
    )
)
def test_the_vectorised_check_and_the_row_model_agree(change: dict[str, Any]) -> None:
    try:
        Score(**score(**change))
        valid = not math.isnan(change["itm"])
    except ValidationError:
        valid = False
    try:
        Contract(Score).check(table(Score, score(**change)))
        passes = True
    except ContractError:
        passes = False
    assert passes == valid


def test_a_record_refuses_unknown_columns_and_never_changes() -> None:
    row = {"pair_id": A, "row_id": B, "source": Source.WEB, "itm": 0.5, "threshold": 0.5}
    with pytest.raises(ValidationError, match="extra"):
        Decision(**row, more=1)
    with pytest.raises(ValidationError, match="frozen"):
        Decision(**row).itm = 0.6  # type: ignore[misc]


def test_an_enum_is_stored_as_its_value() -> None:
    made = records.HumanImage(
        **{"row_id": A, "image_id": IMAGE, "source_name": "h", "url": "u", "texts": ["t"], "image": b"x"},
        **{"format": "PNG", "width": 1, "height": 1, "split": Split.TEST},
    )
    assert Contract(records.HumanImage).table([made])["split"].to_pylist() == ["test"]
    assert issubclass(records.HumanImage, IngestedImage)


def seen(image: list[float], *texts: list[float], row: int = 0) -> Embedding:
    return Embedding(
        row_id=f"{row:032x}",
        image_id="0" * 64,
        pixels=1,
        hash="0" * 64,
        itc=None,
        image=image,
        texts=list(texts),
    )


def test_vectors_are_float16_of_one_length_and_come_back_as_a_matrix(tmp_path: Path) -> None:
    contract = Contract(Embedding)
    table = contract.table([seen([1, 0, 0.5], [0, 1, 0]), seen([0, 1, 0], row=1)])
    assert table.schema.field("image").type == pa.list_(pa.field("element", pa.float16(), nullable=False), 3)
    pq.write_table(table, tmp_path / "part.parquet")
    again = contract.check(pq.read_table(tmp_path / "part.parquet"))
    assert again.schema.equals(table.schema)
    assert matrix(again["image"]).tolist() == [[1, 0, 0.5], [0, 1, 0]]
    assert matrix(again["image"].slice(1)).tolist() == [[0, 1, 0]]
    assert vectors(np.eye(3)).type == again.schema.field("image").type
    assert contract.table([]).num_rows == 0


@pytest.mark.parametrize("bad", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_vector_of_zeros_or_of_no_numbers_breaks_the_contract(bad: list[float]) -> None:
    good = [1.0, 0.0]
    with pytest.raises(ContractError, match=r"column image .* in 1 row"):
        Contract(Embedding).table([seen(good), seen(bad, row=1)])
    with pytest.raises(ContractError, match=r"column texts .* in 1 row") as caught:
        Contract(Embedding).table([seen(good, good), seen(good, good, bad, row=1)])
    assert f"{1:032x}" in caught.value.evidence


def test_vectors_of_any_length_are_not_written() -> None:
    contract = Contract(Embedding)
    loose = contract.table([seen([1.0, 0.0])]).cast(contract.schema)
    with pytest.raises(ContractError, match="vectors of one length"):
        contract.check(loose)
