"""Scores and embeddings against transformers' own forward passes, on tiny checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.blip.modeling_blip import BlipForImageTextRetrieval

from capfilt.data_contracts.errors import ModelError
from capfilt.models.engine.matcher import EngineMatcher
from capfilt.models.protocols import Inference
from tests.blip_checkpoint import VOCABULARY, make_blip, make_tokenizer
from tests.models.engine.looks import TEXTS, open_matcher, pictures, pixels_of, their_tokenizer

ENC = Inference(itm_token="enc")


@pytest.fixture(scope="module")
def matcher(blip_filter: Path) -> EngineMatcher:
    return open_matcher(blip_filter, batch=3)


def test_scores_equal_transformers_own_for_every_pair(blip_filter: Path, matcher: EngineMatcher) -> None:
    theirs = BlipForImageTextRetrieval.from_pretrained(blip_filter).eval()
    images, tokenizer = pictures(4), their_tokenizer(blip_filter)
    ours = matcher.match(images, [TEXTS, TEXTS[:1], [], TEXTS[1:]])
    assert [len(row) for row in ours] == [4, 1, 0, 3]
    spread = set()
    for image, texts, row in zip(images, [TEXTS, TEXTS[:1], [], TEXTS[1:]], ours, strict=True):
        pixels = pixels_of(blip_filter, [image])
        for text, match in zip(texts, row, strict=True):
            read = tokenizer(text, return_tensors="pt")
            ids = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
            with torch.inference_mode():
                logits = theirs(pixel_values=pixels, **ids).itm_score
                cosine = theirs(pixel_values=pixels, **ids, use_itm_head=False).itm_score
            assert match.itm == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-5)
            assert match.itc == pytest.approx(float(cosine[0, 0]), abs=1e-5)
            spread.add(round(match.itm, 3))
    assert len(spread) > 4  # or the comparison would prove nothing


def test_embeddings_are_what_itc_compares(matcher: EngineMatcher) -> None:
    images = pictures(4)
    seen, read = matcher.embed_images(images), matcher.embed_texts(TEXTS)
    assert seen.shape == read.shape == (4, 16)
    assert seen.dtype == read.dtype == np.float32
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)
    ours = matcher.match(images, [TEXTS] * 4)
    assert np.allclose(seen @ read.T, [[match.itc for match in row] for row in ours], atol=1e-5)
    assert matcher.embed_images([]).shape == matcher.embed_texts([]).shape == (0, 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_score_is_the_same_bit_for_bit_in_any_company(
    blip_filter: Path, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever other images are judged beside it, with short texts, long ones, many or none."""
    words, random = VOCABULARY[5:], np.random.default_rng(3)
    images = pictures(24)
    texts = [
        [" ".join(random.choice(words, random.choice([2, 5, 9, 14, 25, 38]))) for _ in range(number % 6)]
        for number in range(24)
    ]
    open_with = [open_matcher(blip_filter, batch, Inference(precision)) for batch in (32, 1, 3, 7)]
    together, *others = (matcher.match(images, texts) for matcher in open_with)
    assert [len(row) for row in together] == [len(own) for own in texts]
    for found in others:
        assert found == together
    turned = open_with[0].match(images[::-1], texts[::-1])
    assert turned[::-1] == together
    for most in (50, 9):  # texts of one image are read in pieces, some longer than that
        monkeypatch.setattr("capfilt.models.engine.matcher._TOKENS", most)
        assert open_with[0].match(images, texts) == together


def test_texts_are_read_normalised_and_cut(matcher: EngineMatcher) -> None:
    def score(text: str) -> float:
        return matcher.match(pictures(1), [[text]])[0][0].itm

    assert score("A (red) dog!") == pytest.approx(score("a red dog"), abs=1e-6)
    many = "dogs " * 17  # two tokens a word: with [CLS] and [SEP] one over 35
    assert len(matcher.tokenizer.rows([many], 99)[0]) == 36
    assert score(many + "dogs cat") == pytest.approx(score(many + "dogs boat"), abs=1e-6)
    assert score("dogs cat") != pytest.approx(score("dogs boat"), abs=1e-6)


def test_enc_token_is_a_choice(blip_filter: Path, matcher: EngineMatcher) -> None:
    encoder = open_matcher(blip_filter, inference=ENC)
    cls, enc = matcher.match(pictures(1), [TEXTS[:1]])[0][0], encoder.match(pictures(1), [TEXTS[:1]])[0][0]
    assert cls.itc == pytest.approx(enc.itc, abs=1e-6)
    assert abs(cls.itm - enc.itm) > 1e-4


def test_released_tokenizers_lack_dec_and_enc(tmp_path: Path) -> None:
    """They are BERT's; the ids come from the config, [ENC] right after [DEC]."""
    judges = []
    for name, vocabulary in (("whole", VOCABULARY), ("bert", VOCABULARY[:-2])):
        make_tokenizer(make_blip(tmp_path / name, "filter"), vocabulary)
        judges.append(open_matcher(tmp_path / name, inference=ENC))
    whole, bert = (judge.match(pictures(1), [TEXTS])[0] for judge in judges)
    assert whole == bert
    make_tokenizer(make_blip(tmp_path / "none", "filter", bos_token_id=len(VOCABULARY) - 1), VOCABULARY[:-2])
    with pytest.raises(ModelError, match=r"no \[ENC\] token"):
        open_matcher(tmp_path / "none", inference=ENC)


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.02), ("int8", 0.05)])
def test_lower_precision_drifts_a_little(
    blip_filter: Path, matcher: EngineMatcher, precision: Any, most: float
) -> None:
    images = pictures(6)
    exact = np.array(matcher.match(images, [TEXTS] * 6))
    off = np.abs(
        np.array(open_matcher(blip_filter, inference=Inference(precision)).match(images, [TEXTS] * 6)) - exact
    )
    assert 0 < off.max() < most


def test_no_images_and_no_texts(matcher: EngineMatcher) -> None:
    assert matcher.match([], []) == []
    assert matcher.match(pictures(2), [[], []]) == [[], []]


def test_a_captioner_cannot_judge(blip_captioner: Path) -> None:
    with pytest.raises(ModelError, match="cannot serve as the filter"):
        open_matcher(blip_captioner)
