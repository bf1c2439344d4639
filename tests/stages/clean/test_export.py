from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.identity import pair_id
from capfilt.data_contracts.records import (
    CleanPair,
    Decision,
    HumanImage,
    IngestedImage,
    Score,
    Source,
    Split,
)
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.clean.export import ExportIds, ExportPairs
from capfilt.stages.in_memory import MemoryInput
from tests.stages.rows import collect, human, picture, png, run_shard, score, site

SITE = site(Path("unused"))
EMBED, REFERENCE, IDS = ExportPairs(embed=True), ExportPairs(embed=False), ExportIds(embed=False)


def decision(of: Score) -> Decision:
    return Decision(pair_id=of.pair_id, row_id=of.row_id, source=of.source, itm=of.itm, threshold=0.5)


def crawled(*decided: int) -> Iterator[Any]:
    """Two images with a web and a synthetic text each, and decisions for some of the four."""
    scores = [
        score(1, "1 web", 0.9),
        score(1, "1 written", 0.8, Source.SYNTHETIC),
        score(2, "2 web", 0.7),
        score(2, "2 written", 0.6, Source.SYNTHETIC),
    ]
    yield from (
        picture(1, "1 web"),
        picture(2, "2 web"),
        *scores,
        *(decision(scores[number]) for number in decided),
    )


def test_the_join_gives_every_pair_its_own_image_and_scores() -> None:
    rows, rejected = run_shard(EMBED.open(SITE), *crawled(1, 2))
    assert not rejected
    assert [(row["text"], row["source"], row["itm"], row["url"], row["caption_index"]) for row in rows] == [
        ("1 written", "synthetic", 0.8, "1.png", 0),
        ("2 web", "web", 0.7, "2.png", None),
    ]
    for row, number in zip(rows, (1, 2), strict=True):
        assert row["image"] == png(number)
        assert (row["image_id"], row["row_id"]) == (picture(number).image_id, picture(number).row_id)
        assert row["pair_id"] == pair_id(row["image_id"], row["text"])
        assert (row["width"], row["height"], row["source_name"], row["round"]) == (8, 8, "web", 1)
        assert row["split"] is None


def test_other_columns_of_the_source_go_along() -> None:
    made = [
        row.model_copy(update={"extra": "{}"}) if isinstance(row, IngestedImage) else row
        for row in crawled(1)
    ]
    rows, _ = run_shard(EMBED.open(SITE), *made)
    people, _ = run_shard(EMBED.open(SITE), human(1, "a").model_copy(update={"extra": "[]"}))
    assert [row["extra"] for row in (*rows, *people)] == ["{}", "[]"]


def test_reference_leaves_the_bytes_where_they_are_and_nothing_else_out() -> None:
    embedded, _ = run_shard(EMBED.open(SITE), *crawled(0, 3))
    referred, _ = run_shard(REFERENCE.open(SITE), *crawled(0, 3))
    assert referred == [{**row, "image": None} for row in embedded]


def test_ids_are_the_same_pairs() -> None:
    embedded, _ = run_shard(EMBED.open(SITE), *crawled(0, 3))
    ids, _ = run_shard(IDS.open(SITE), *crawled(0, 3))
    assert ids == [
        {name: row[name] for name in ("pair_id", "row_id", "image_id", "source")} for row in embedded
    ]


def test_a_shard_without_a_decision_is_empty() -> None:
    rows, _ = run_shard(EMBED.open(SITE), *crawled(), empty=[Decision])
    assert rows == []


def test_human_pairs_go_in_whole_with_their_split_and_without_scores() -> None:
    rows, _ = run_shard(EMBED.open(SITE), human(1, "a", "b"), human(2, "a", split=Split.TEST))
    assert [(row["text"], row["split"]) for row in rows] == [("a", "train"), ("b", "train"), ("a", "test")]
    assert {(row["source"], row["itm"], row["itc"], row["caption_index"]) for row in rows} == {
        ("human", None, None, None)
    }
    assert {row["source_name"] for row in rows} == {"human"}


def test_a_human_pair_that_occurs_twice_counts_once() -> None:
    twice = HumanImage(**{**human(1, "a", "c").model_dump(), "row_id": "d" * 32, "url": "copy.png"})
    inputs = [human(1, "a", "b"), twice]
    rows, (reject,) = run_shard(EMBED.open(SITE), *inputs)
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    assert (reject.reason, reject.row_id, reject.id) == (
        Reason.DUPLICATE_PAIR,
        "d" * 32,
        pair_id(twice.image_id, "a"),
    )
    assert sum(map(len, EMBED.units(MemoryInput.of(*inputs)).values())) == 4


TEXTS = st.dictionaries(st.integers(0, 5), st.lists(st.booleans(), max_size=4), max_size=6)


@given(TEXTS)
def test_units_are_conserved_and_keys_unique(texts: dict[int, list[bool]]) -> None:
    scores = [
        (score(number, f"text {index}", 0.5), keep)
        for number, own in texts.items()
        for index, keep in enumerate(own)
    ]
    rows = [
        *(picture(number) for number in texts),
        *(one for one, _ in scores),
        *(decision(one) for one, keep in scores if keep),
    ]
    inputs = MemoryInput.of(*rows, empty=[IngestedImage, Score, Decision])
    units = [unit for own in EMBED.units(inputs).values() for unit in own]
    if not texts:
        return
    kept, rejected = collect(EMBED.open(SITE)(inputs))
    Contract(CleanPair).check(kept)
    assert sorted(kept["pair_id"].to_pylist()) == sorted(units)
    assert not rejected


@pytest.mark.parametrize("stage", [EMBED, IDS])
def test_rounds(stage: ExportPairs) -> None:
    from dataclasses import replace

    (row,), _ = run_shard(replace(stage, round=2).open(SITE), *crawled(0))
    assert row.get("round", 2) == 2
