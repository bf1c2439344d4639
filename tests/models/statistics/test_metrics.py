import numpy as np
import pytest

from capfilt.models.statistics.metrics import (
    caption_metrics,
    diversity,
    ece,
    most_shared,
    prevalence,
    recall_at,
    words,
)

REFERENCES = {
    1: ["a red dog runs on the beach", "a dog runs"],
    2: ["two cats sleep on a table", "cats on a wooden table"],
    3: ["a boat near the house", "a small blue boat"],
}


def test_recall_by_hand() -> None:
    #                texts of image: 0    0    1    2
    similarity = [
        [0.1, 0.9, 0.5, 0.2],  # its second text is first
        [0.7, 0.0, 0.6, 0.8],  # third
        [0.9, 0.8, 0.7, 0.1],  # fourth
    ]
    figures = recall_at(similarity, [0, 0, 1, 2], ks=(1, 3, 4))
    assert figures == {
        "tr@1": pytest.approx(1 / 3),
        "tr@3": pytest.approx(2 / 3),
        "tr@4": 1.0,
        "ir@1": pytest.approx(1 / 4),  # only text 1 has its image first; text 0 third, 2 second, 3 third
        "ir@3": 1.0,
        "ir@4": 1.0,
    }


def test_recall_gives_nothing_for_constant_scores_and_skips_images_without_text() -> None:
    assert set(recall_at(np.zeros((3, 3)), [0, 1, 2], ks=(1, 2)).values()) == {0.0}
    assert recall_at([[1.0], [0.0]], [0], ks=(1,)) == {"tr@1": 1.0, "ir@1": 1.0}


def test_recall_refuses_nan_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="NaN"):
        recall_at([[np.nan]], [0])
    with pytest.raises(ValueError, match="shape"):
        recall_at([[1.0, 2.0]], [0])


def test_a_perfect_and_a_wrong_caption(capfd: pytest.CaptureFixture[str]) -> None:
    perfect = caption_metrics(REFERENCES, {key: texts[0] for key, texts in REFERENCES.items()})
    wrong = caption_metrics(REFERENCES, dict.fromkeys(REFERENCES, "green grass"))
    assert [perfect[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx([1] * 4, abs=1e-6)
    assert perfect["rouge_l"] == pytest.approx(1)
    assert perfect["cider"] > 4
    assert wrong["cider"] == 0
    assert wrong["bleu_1"] == pytest.approx(0, abs=1e-6)
    assert wrong["duplicate_rate"] == pytest.approx(2 / 3)
    assert capfd.readouterr() == ("", "")  # pycocoevalcap prints by default


def test_bleu_and_rouge_by_hand() -> None:
    figures = caption_metrics({1: ["a b c d"]}, {1: "A, b! d e"})
    assert figures["bleu_1"] == pytest.approx(3 / 4, abs=1e-6)
    assert figures["bleu_2"] == pytest.approx((3 / 4 * 1 / 3) ** 0.5, abs=1e-6)
    assert figures["rouge_l"] == pytest.approx(3 / 4)  # precision and recall are both 3/4
    assert figures["cider"] == 0  # one image has no document frequencies


def test_figures_do_not_depend_on_case_punctuation_or_order() -> None:
    candidates = {1: "a red dog on the beach", 2: "cats on a table", 3: "a boat"}
    loud = {key: f"{text.upper()} !" for key, text in reversed(candidates.items())}
    assert caption_metrics(REFERENCES, candidates) == pytest.approx(caption_metrics(REFERENCES, loud))


def test_an_empty_candidate_counts_and_a_missing_reference_does_not_pass() -> None:
    assert caption_metrics({1: ["a dog"], 2: ["a cat"]}, {1: "", 2: "a cat"})["rouge_l"] == pytest.approx(0.5)
    for references in ({}, {1: []}, {1: ["..."]}):
        with pytest.raises(ValueError, match=r"1 of 1 candidates have no reference, such as \[1\]"):
            caption_metrics(references, {1: "a dog"})
    with pytest.raises(ValueError, match="no candidates"):
        caption_metrics(REFERENCES, {})


def test_diversity() -> None:
    figures = diversity(["a b c d", "A b c d.", "e"])
    assert figures == {
        "unique_trigrams": 0.5,
        "distinct_2": 0.5,
        "duplicate_rate": pytest.approx(1 / 3),
        "vocabulary": 5.0,
    }
    assert set(diversity([]).values()) == {0.0}


def test_what_most_images_share_counts_images_and_not_texts() -> None:
    images = [
        ["a red dog runs", "A red dog, runs."],
        ["a red dog runs"],
        ["a red dog"],
        ["the red dog"],
        ["!"],
        [],
    ]
    assert most_shared(images) == ("a red dog runs", 2)
    assert most_shared(images, 3) == ("a red dog", 3)
    assert most_shared(reversed(images), 2) == ("red dog", 4)
    assert most_shared([["b"], ["a"]]) == ("a", 1)
    assert most_shared([["a b"]], 3) == most_shared([]) == ("", 0)


def test_words() -> None:
    assert words("It's a well-known 'cat', isn't it? #1 — Ünïcode!") == (
        ["it's", "a", "well-known", "cat", "isn't", "it", "1", "ünïcode"]
    )


def test_ece() -> None:
    assert ece([1, 0, 1, 0], [1.0, 0.0, 1.0, 0.0]) == 0
    assert ece([0, 0, 0, 0], [1.0] * 4) == 1
    assert ece([1, 1, 0, 0], [0.75] * 4) == pytest.approx(0.25)
    assert ece([1, 0], [0.9, 0.9], weights=[9, 1]) == pytest.approx(0)


def test_prevalence_undoes_the_errors_of_a_test() -> None:
    for share in (0.0, 0.1, 0.5, 1.0):
        assert prevalence(share * 0.9 + (1 - share) * 0.2, found=0.9, faulted=0.2) == pytest.approx(share)
    assert prevalence(0.1, found=0.9, faulted=0.2) == 0  # fewer than the test's own errors
    assert np.isnan(prevalence(0.5, found=0.2, faulted=0.2))
