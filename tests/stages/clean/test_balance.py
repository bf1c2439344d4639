from pathlib import Path

import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.records import Decision, IngestedImage, Record, Score, Source, WordCount
from capfilt.stages.clean.balance import Balance, CountWords, WordList
from capfilt.stages.clean.export import ExportPairs
from capfilt.stages.in_memory import MemoryInput
from tests.stages.rows import collect, picture, run_global, score, site

TEXTS = [*(f"a dog {(n % 2 and 'runs') or 'sits'}" for n in range(200)), "a dog and a quokka", "12 !!"]


def decided(texts: list[str]) -> list[Record]:
    rows: list[Record] = []
    for number, text in enumerate(texts):
        judged = score(number, text, 0.9)
        rows += [
            picture(number, text),
            judged,
            Decision(pair_id=judged.pair_id, row_id=judged.row_id, source=Source.WEB, itm=0.9, threshold=0.5),
        ]
    return rows


def balanced(tmp_path: Path, balance: Balance, texts: list[str]) -> tuple[list[dict], list[str], list[str]]:
    """What is counted, the texts that stay, and why the others leave."""
    rows = decided(texts)
    counted, made = run_global(
        CountWords(balance), site(tmp_path), MemoryInput.of(*rows, empty=[Score, Decision])
    )
    transform = ExportPairs(embed=False, balance=balance).open(site(tmp_path))
    inputs = MemoryInput.of(
        *rows, *(WordCount(**row) for row in counted), empty=[WordCount, IngestedImage, Score]
    )
    kept, rejected = collect(transform(inputs))
    assert kept.num_rows + len(rejected) == len(texts)
    assert made[0].facts["kept"] == kept.num_rows  # type: ignore[union-attr]
    return counted, kept["text"].to_pylist(), [f"{one.reason} {one.detail}" for one in rejected]


def test_a_word_of_many_pairs_takes_about_its_cap_and_rare_ones_all_of_theirs(tmp_path: Path) -> None:
    counted, kept, left = balanced(tmp_path, Balance(50, 0), TEXTS)
    words = {row["word"]: row for row in counted}
    assert {word: row["pairs"] for word, row in words.items()} == {"dog": 201, "runs": 100, "sits": 100}
    # a pair of these stays with probability 1 - (1 - 50/201) (1 - 50/100), about 0.62
    assert 100 < len(kept) < 150
    assert words["dog"]["kept"] == len(kept) - 1
    assert "a dog and a quokka" in kept  # for the quokka
    assert "12 !!" in kept  # no word counts
    assert left[0].startswith("over_cap ")
    assert "dog in 201, " in left[0]


def test_draws_come_from_the_pair_and_the_seed_alone(tmp_path: Path) -> None:
    one = balanced(tmp_path, Balance(20, 0), TEXTS)
    assert balanced(tmp_path, Balance(20, 0), TEXTS) == one
    assert balanced(tmp_path, Balance(20, 1), TEXTS)[1] != one[1]
    assert len(balanced(tmp_path, Balance(1000, 0), TEXTS)[1]) == len(TEXTS)


def test_only_words_of_the_list_count(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("Dog\nquokka\n", "utf-8")
    words = WordList.of(str(tmp_path / "words.txt"))
    counted, kept, _ = balanced(tmp_path, Balance(50, 0, words), TEXTS)
    assert [row["word"] for row in counted] == ["dog"]
    assert 30 < len(kept) < 75  # 50 of 201 for the dog alone
    (tmp_path / "words.txt").write_text("")
    with pytest.raises(RecipeError, match="is not a list of words"):
        WordList.of(str(tmp_path / "words.txt"))


def test_words_are_letters_in_any_script_without_stop_words() -> None:
    balancer = Balance(1, 0).load()
    assert balancer.concepts("The dog's 12 Größen, red-brown; a 红色 dog's") == [
        "dog's",
        "größen",
        "red-brown",
        "红色",
    ]
