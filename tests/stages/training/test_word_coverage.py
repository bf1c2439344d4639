from pathlib import Path
from tempfile import mkdtemp

import pytest

from capfilt.data_contracts.records import HumanImage, IngestedImage, Record, Split
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import Rows
from capfilt.stages.training.rehearsal import NARROW, is_narrow
from capfilt.stages.training.word_coverage import ENOUGH, RARE, MeasureWordCoverage
from tests.stages.rows import human, picture, site


@pytest.fixture
def count(tmp_path: Path):
    def run(*rows: Record) -> tuple[dict[str, tuple[int, int, bool]], Rows]:
        inputs = MemoryInput.of(*rows, empty=[HumanImage, IngestedImage])
        (made,) = MeasureWordCoverage().run(site(Path(mkdtemp(dir=tmp_path))), inputs)
        assert isinstance(made, Rows)
        assert made.units == made.kept.num_rows
        words = {
            row["word"]: (row["web_texts"], row["human_texts"], row["covered"])
            for row in made.kept.to_pylist()
        }
        return words, made

    return run


def web(texts: list[str]) -> list[IngestedImage]:
    return [picture(number, text) for number, text in enumerate(texts)]


def people(*texts: str, split: Split = Split.TRAIN) -> list[HumanImage]:
    return [human(1000 + number, text, split=split) for number, text in enumerate(texts)]


FILLING = [f"{name} here" for name in ("ant", "bee", "cow") for _ in range(8)]  # `here`: in most of the texts


def test_a_word_counts_once_a_text_as_the_models_read_it(count) -> None:
    words, _ = count(*web([*FILLING, *["A DOG! a dog, a #dog"] * RARE]))
    assert words["dog"] == (RARE, 0, False)


def test_rare_words_short_words_numbers_and_words_of_nearly_all_texts_do_not_count(count) -> None:
    texts = [f"up 2024 x{number}y name{chr(97 + number)}" for number in range(RARE)]
    words, _ = count(*web([*FILLING, *texts, *["owl here"] * (RARE - 1)]))
    assert words.keys() == {"ant", "bee", "cow"}


def test_a_large_crawl_asks_for_more_texts_than_five(count) -> None:
    many = [picture(number, *[name] * 4400) for number, name in enumerate(("ant", "bee", "cow"))]
    words, made = count(*many, picture(9, *["dog"] * 6, *["owl"] * 7))
    assert made.facts["web_texts"] == 13_213
    assert words.keys() == {"ant", "bee", "cow", "owl"}  # a word has to be in 6.6 texts


def test_what_is_covered_is_what_enough_captions_to_train_on_say(count) -> None:
    trained = people(*["an ant"] * ENOUGH, *["a bee"] * (ENOUGH - 1))
    held = [human(2000 + number, "a cow", split=Split.TEST) for number in range(ENOUGH)]
    words, made = count(*web(FILLING), *trained, *held)
    assert words == {"ant": (8, ENOUGH, True), "bee": (8, ENOUGH - 1, False), "cow": (8, 0, False)}
    assert made.facts["covered_share"] == pytest.approx(1 / 3)
    assert is_narrow(made.kept)
    assert "know 33% of what 24 web texts say" in made.notes[0]


def test_a_human_set_that_knows_most_of_the_webs_words_is_not_narrow(count) -> None:
    texts = [*["ant"] * 20, *["bee"] * 20, *["cow"] * 10]
    both = people(*["ant and bee"] * ENOUGH)
    assert count(*web(texts), *both)[1].facts["covered_share"] == NARROW
    assert not is_narrow(count(*web(texts), *both)[1].kept)
    assert is_narrow(count(*web([*texts, "cow"]), *both)[1].kept)


def test_a_web_without_texts_needs_nobody_to_cover_it(count) -> None:
    words, made = count(picture(1), human(2, "a dog"))
    assert (words, made.facts["covered_share"]) == ({}, 1.0)
    assert not is_narrow(made.kept)
