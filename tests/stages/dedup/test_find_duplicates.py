import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from capfilt.data_contracts.contract import Contract, vectors
from capfilt.data_contracts.errors import ContractError, RecipeError, StageError
from capfilt.data_contracts.identity import image_id, row_id
from capfilt.data_contracts.records import Embedding, HeldOutImage, Record
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.dedup.find_duplicates import MOST_TEXTS, DedupSettings, FindDuplicates
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import Rejected, Rows
from tests.stages.rows import picture, site

RANDOM = np.random.default_rng(0)
HASHES = RANDOM.integers(0, 256, (100, 32), dtype=np.uint8)
DIRECTIONS = np.linalg.qr(RANDOM.standard_normal((64, 64)))[0]


def flipped(number: int, bits: int) -> str:
    """The hash of image ``number`` with so many other bits."""
    mask = np.zeros(256, np.uint8)
    mask[:bits] = 1
    return (HASHES[number] ^ np.packbits(mask)).tobytes().hex()


def leaning(number: int, cosine: float) -> list[float]:
    """A vector that has this cosine with the one of image ``number``."""
    found = cosine * DIRECTIONS[number] + (1 - cosine**2) ** 0.5 * DIRECTIONS[63 - number]
    return found.tolist()


def seen(
    name: str,
    number: int,
    *,
    cosine: float = 1.0,
    bits: int = 0,
    pixels: int = 100,
    itc: float | None = None,
    same_bytes: str = "",
) -> Embedding:
    """A row called ``name``, whose image looks like image ``number``."""
    return Embedding(
        row_id=row_id("web", name),
        image_id=image_id((same_bytes or name).encode()),
        pixels=pixels,
        hash=flipped(number, bits),
        itc=itc,
        image=leaning(number, cosine),
        texts=[],
    )


def held(name: str, number: int, *, same_bytes: str = "") -> HeldOutImage:
    return HeldOutImage(
        image_id=image_id((same_bytes or name).encode()),
        name=name,
        hash=flipped(number, 0),
        image=DIRECTIONS[number].tolist(),
    )


def run(
    tmp_path: Path, stage: FindDuplicates, *parts: Sequence[Embedding], others: Sequence[Record] = ()
) -> list[Rows]:
    tables: dict[type[Record], Sequence[pa.Table]] = {
        Embedding: [Contract(Embedding).table(part) for part in parts]
    }
    for kind in dict.fromkeys(map(type, others)):
        tables[kind] = [Contract(kind).table([row for row in others if type(row) is kind])]
    scratch = Path(mkdtemp(dir=tmp_path))
    made = list(stage.run(site(scratch), MemoryInput(tables)))
    assert all(isinstance(rows, Rows) for rows in made)
    return made  # type: ignore[return-value]


NAMES = {
    row_id("web", name): name
    for name in (f"{letter}{number}" for letter in "abcdefgh" for number in range(40))
}


def kept(made: Sequence[Rows]) -> dict[str, int]:
    """The names of what stays, with how many rows each stands for."""
    return {NAMES[row["row_id"]]: row["rows"] for rows in made for row in rows.kept.to_pylist()}


def left(made: Sequence[Rows]) -> dict[str, tuple[str, str]]:
    """What left: the reason, and the detail with names."""
    rejects: list[Rejected] = [reject for rows in made for reject in rows.rejected]
    found = {}
    for reject in rejects:
        detail = re.sub(r"[0-9a-f]{32}", lambda match: NAMES[match[0]], reject.detail)
        found[NAMES[reject.row_id]] = (str(reject.reason), detail)
    return found


def test_the_same_bytes_the_same_look_and_the_same_meaning_in_a_like_layout(tmp_path: Path) -> None:
    rows = [
        seen("a0", 1, pixels=200),
        seen("a1", 1, pixels=150, cosine=0.2, bits=24),  # brighter, say: the hash alone tells
        seen("a2", 1, pixels=100, cosine=0.97, bits=60),  # cropped
        seen("a3", 1, pixels=200, same_bytes="a0"),
        seen("b0", 2),
        seen("b1", 2, cosine=0.97, bits=90),  # the same thing in another place
        seen("c0", 3),
        seen("c1", 3, cosine=0.9, bits=60),
    ]
    made = run(tmp_path, FindDuplicates(), rows)
    first, second = sorted(["a0", "a3"], key=lambda name: row_id("web", name))
    assert kept(made) == {first: 4, "b0": 1, "b1": 1, "c0": 1, "c1": 1}
    reasons = left(made)
    assert reasons[second] == (
        "duplicate_of",
        f"keeper {first}, similarity 1.0000, 0 of 256 bits differ: the same bytes",
    )
    assert reasons["a1"][1] == f"keeper {first}, similarity 0.2000, 24 of 256 bits differ: by hash"
    assert reasons["a2"][1] == f"keeper {first}, similarity 0.9700, 60 of 256 bits differ: by embedding"
    facts = made[0].facts
    assert (facts["same_bytes"], facts["near"], facts["groups"], facts["largest_group"]) == (1, 2, 1, 4)
    assert (made[0].units, facts["search"]) == (8, "exact")


def test_a_hash_of_one_colour_decides_nothing_alone(tmp_path: Path) -> None:
    flat = {"hash": "0" * 64}
    rows = [seen("a0", 1, pixels=900), seen("a1", 2), seen("a2", 1, cosine=0.96)]
    made = run(tmp_path, FindDuplicates(), [row.model_copy(update=flat) for row in rows])
    assert kept(made) == {"a0": 2, "a1": 1}
    assert left(made)["a2"][1].endswith("0 of 256 bits differ: by embedding")


def test_the_largest_stays_then_the_one_whose_text_fits_then_the_smallest_id(tmp_path: Path) -> None:
    ids = sorted(["c0", "c1", "c2"], key=lambda name: row_id("web", name))
    rows = [
        seen("a0", 1, pixels=99, itc=0.9),
        seen("a1", 1, bits=1, pixels=101, itc=-0.5),
        *(seen("b0", 2, itc=None), seen("b1", 2, bits=1, itc=-0.9), seen("b2", 2, bits=2, itc=0.1)),
        *(seen(name, 3, bits=number) for number, name in enumerate(ids)),
    ]
    assert kept(run(tmp_path, FindDuplicates(), rows)) == {"a1": 2, "b2": 3, ids[0]: 3}


def test_a_chain_is_one_group_and_says_so(tmp_path: Path) -> None:
    chain = [seen(f"a{step}", 1, bits=20 * step, cosine=0.1, pixels=100 - step) for step in range(5)]
    far = [seen("a9", 1, bits=80, cosine=0.1, pixels=1)]
    made = run(tmp_path, FindDuplicates(DedupSettings(hash_beside=24)), chain, far)
    assert kept(made) == {"a0": 6}
    assert left(made)["a4"][1].endswith("80 of 256 bits differ: through others of its group")


def test_what_is_like_a_held_out_image_leaves_first_and_founds_no_group(tmp_path: Path) -> None:
    rows = [
        seen("a0", 1, pixels=500),
        seen("a1", 1, bits=20, cosine=0.5),  # like a0 and the holdout
        seen("a2", 1, bits=40, cosine=0.5),  # like a1 alone
        seen("b0", 2),
        seen("b1", 3, same_bytes="x.png"),
    ]
    others = [held("test x.png", 4, same_bytes="x.png"), held("human test y.png", 1)]
    made = run(tmp_path, FindDuplicates(), rows, others=others)
    assert kept(made) == {"a2": 1, "b0": 1}
    reasons = left(made)
    assert {name: reason for name, (reason, _) in reasons.items()} == dict.fromkeys(
        ["a0", "a1", "b1"], "held_out"
    )
    assert reasons["a1"][1] == "human test y.png, similarity 0.5000, 20 of 256 bits differ"
    assert reasons["b1"][1].startswith("test x.png")
    assert (made[0].facts["held_out"], made[0].facts["near"], made[0].facts["held_out_set"]) == (3, 0, 2)
    only = run(tmp_path, FindDuplicates(duplicates=False), rows, [seen("b2", 2)], others=others)
    assert kept(only) == {"a2": 1, "b0": 1, "b2": 1}


def crawl(count: int = 240) -> list[Embedding]:
    """Images of which each has two to four copies, in no order."""
    random = Random(1)
    rows = []
    for number in range(40):
        for copy in range(2 + number % 3):
            name = f"{'abcd'[copy]}{number}"
            likeness: dict[str, Any] = {"cosine": random.uniform(0.94, 1), "bits": random.randint(0, 80)}
            rows.append(
                seen(name, number % 20, pixels=random.randint(1, 3), itc=random.uniform(-1, 1), **likeness)
            )
    random.shuffle(rows)
    return rows


def told(made: Sequence[Rows]) -> tuple[dict[str, int], dict[str, tuple[str, str]]]:
    return kept(made), left(made)


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_neither_shards_nor_their_order_nor_memory_change_a_thing(tmp_path: Path, search: Any) -> None:
    rows = crawl()
    stage = FindDuplicates(DedupSettings(search=search))
    whole = told(run(tmp_path, stage, rows))
    assert 20 <= len(whole[0]) < len(rows)
    for size in (1, 7, 50):
        shuffled = list(rows)
        Random(size).shuffle(shuffled)
        parts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        assert told(run(tmp_path, stage, *parts)) == whole
    tight = FindDuplicates(DedupSettings(search=search, memory=64 * 10**6))
    assert told(run(tmp_path, tight, rows, [])) == whole


def test_an_inverted_file_says_what_it_missed_and_agrees_with_all_pairs(tmp_path: Path) -> None:
    rows = crawl()
    exact = run(tmp_path, FindDuplicates(DedupSettings(search="exact")), rows)
    found = run(tmp_path, FindDuplicates(DedupSettings(search="ivf")), rows)
    facts = found[0].facts
    assert facts["search"] == "ivf"
    assert facts["recall"] == 1.0
    assert facts["recall_pairs"] > 10
    assert told(found) == told(exact)
    assert "found 100.0% of the" in found[0].notes[0]


def test_texts_of_a_group_are_gathered_on_its_keeper(tmp_path: Path) -> None:
    given = [
        picture(1, "a dog", "a cat", url="a0"),
        picture(2, "a dog", "two dogs", url="a1"),
        picture(3, "three dogs", "two dogs", url="a2"),
        picture(4, "a bird", url="b0"),
    ]
    rows = [seen("a0", 1, pixels=9), seen("a1", 1, pixels=8), seen("a2", 1, pixels=7), seen("b0", 2)]
    stage = FindDuplicates(merge_texts=True)
    (made,) = run(tmp_path, stage, rows, others=given)
    texts = {NAMES[row["row_id"]]: row["texts"] for row in made.kept.to_pylist()}
    assert texts == {"a0": ["two dogs", "three dogs"], "b0": []}
    many = [picture(n, f"text {n}", url=f"{'abcd'[n % 4]}{n // 4}") for n in range(160)]
    alike = [seen(one.url, 1, bits=n % 3, pixels=n + 1) for n, one in enumerate(many)]
    (made,) = run(tmp_path, stage, alike, others=many)
    (row,) = made.kept.to_pylist()
    assert len(row["texts"]) == MOST_TEXTS
    assert made.facts["texts_left_out"] == 160 - 1 - MOST_TEXTS


def test_vectors_of_different_lengths_are_refused_with_the_shard(tmp_path: Path) -> None:
    odd = seen("a1", 1).model_copy(update={"image": [1.0, 0.0]})
    with pytest.raises(ContractError, match="different lengths") as caught:
        run(tmp_path, FindDuplicates(), [seen("a0", 1)], [odd])
    assert "2 components in shard 0000001, 64 before it" in caught.value.evidence
    short = held("x", 1).model_copy(update={"image": [1.0, 0.0]})
    with pytest.raises(ContractError, match="by another model"):
        run(tmp_path, FindDuplicates(), [seen("a0", 1)], others=[short])


def test_an_empty_set_and_too_little_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="nothing to deduplicate"):
        run(tmp_path, FindDuplicates(), [], [])
    many = 64 * 10**6 // 300 + 1
    table = pa.table(
        {
            "row_id": pa.array([f"{n:032x}" for n in range(many)]),
            "image_id": pa.array([f"{n:064x}" for n in range(many)]),
            "pixels": pa.array(np.ones(many, np.int64)),
            "hash": pa.array(["0" * 64] * many),
            "itc": pa.nulls(many, pa.float64()),
            "image": vectors(np.ones((many, 2))),
        }
    )
    with pytest.raises(StageError, match="too large for the memory") as caught:
        list(
            FindDuplicates(DedupSettings(memory=64 * 10**6)).run(
                site(tmp_path), MemoryInput({Embedding: [table]})
            )
        )
    assert "DedupSettings.memory" in caught.value.remedy


@pytest.mark.parametrize(
    "wrong",
    [{"similarity": 0.0}, {"similarity": 1.1}, {"hash_beside": 257}, {"hash_alone": 65}, {"memory": 1}],
)
def test_a_likeness_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"dedup.{next(iter(wrong))} cannot be"):
        DedupSettings(**wrong)


def test_ids_that_end_in_zeros_stay_whole(tmp_path: Path) -> None:
    rows = [seen("a0", 1), seen("a1", 1, bits=1)]
    zeros = ["ab" + 30 * "0", "ac" + 30 * "0"]
    rows = [row.model_copy(update={"row_id": one}) for row, one in zip(rows, zeros, strict=True)]
    (made,) = run(tmp_path, FindDuplicates(), rows)
    assert made.kept["row_id"].to_pylist() == zeros[:1]
    assert [(reject.row_id, reject.detail.split()[1]) for reject in made.rejected] == [
        (zeros[1], f"{zeros[0]},")
    ]
    assert made.rejected[0].reason is Reason.DUPLICATE_OF
