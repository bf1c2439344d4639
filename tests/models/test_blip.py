"""The adapters against transformers' own forward and generate, on tiny checkpoints."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from data_contracts.errors import ModelError, UsageError
from models.blip import BlipCaptioner, BlipMatcher
from models.checkpoint import locate
from models.protocols import Decoding
from tests.blip_checkpoint import VOCABULARY, make_blip, make_tokenizer

torch.set_num_threads(1)

TEXTS = ["a red dog", "two cats on the beach near a small boat", "blue house", "a"]
DECODING = Decoding(min_tokens=3, max_tokens=8, seed=7)


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [
        Image.fromarray(generator.integers(0, 256, (40, 24 + 8 * row, 3), dtype=np.uint8))
        for row in range(count)
    ]


def pixels_of(directory: Path, images: list[Image.Image]) -> torch.Tensor:
    """As transformers' own processor prepares them."""
    processor = BlipImageProcessorPil.from_pretrained(directory)
    pixels: torch.Tensor = processor(images, return_tensors="pt")["pixel_values"]
    return pixels


def names(count: int) -> list[str]:
    return [f"image-{row}" for row in range(count)]


@pytest.fixture(scope="module")
def captioner(blip_captioner: Path) -> BlipCaptioner:
    return BlipCaptioner.open(locate(str(blip_captioner)), batch=4)


@pytest.fixture(scope="module")
def matcher(blip_filter: Path) -> BlipMatcher:
    return BlipMatcher.open(locate(str(blip_filter)), batch=3)


def test_scores_equal_transformers_own_for_every_pair(blip_filter: Path, matcher: BlipMatcher) -> None:
    theirs = BlipForImageTextRetrieval.from_pretrained(blip_filter).eval()
    images = pictures(4)
    ours = matcher.match(images, [TEXTS, TEXTS[:1], [], TEXTS[1:]])
    assert [len(row) for row in ours] == [4, 1, 0, 3]
    spread = set()
    for image, texts, row in zip(images, [TEXTS, TEXTS[:1], [], TEXTS[1:]], ours, strict=True):
        pixels = pixels_of(blip_filter, [image])
        for text, match in zip(texts, row, strict=True):
            read = matcher.tokenizer(text, return_tensors="pt")
            ids = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
            with torch.inference_mode():
                logits = theirs(pixel_values=pixels, **ids).itm_score
                cosine = theirs(pixel_values=pixels, **ids, use_itm_head=False).itm_score
            assert match.itm == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-5)
            assert match.itc == pytest.approx(float(cosine[0, 0]), abs=1e-5)
            spread.add(round(match.itm, 3))
    assert len(spread) > 4  # or the comparison would prove nothing


def test_embeddings_are_what_itc_compares(matcher: BlipMatcher) -> None:
    images = pictures(4)
    seen, read = matcher.embed_images(images), matcher.embed_texts(TEXTS)
    assert seen.shape == read.shape == (4, 16)
    assert seen.dtype == read.dtype == np.float32
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)
    ours = matcher.match(images, [TEXTS] * 4)
    assert np.allclose(seen @ read.T, [[match.itc for match in row] for row in ours], atol=1e-5)
    assert matcher.embed_images([]).shape == matcher.embed_texts([]).shape == (0, 16)


def test_scores_do_not_depend_on_the_batch(blip_filter: Path, matcher: BlipMatcher) -> None:
    images = pictures(5)
    together = BlipMatcher.open(locate(str(blip_filter)), batch=100).match(images, [TEXTS] * 5)
    for image, row in zip(images, together, strict=True):
        assert np.allclose(matcher.match([image], [TEXTS])[0], row, atol=1e-5)


def test_texts_are_read_normalised_and_cut(matcher: BlipMatcher) -> None:
    def score(text: str) -> float:
        return matcher.match(pictures(1), [[text]])[0][0].itm

    assert score("A (red) dog!") == pytest.approx(score("a red dog"), abs=1e-6)
    many = "dogs " * 17  # two tokens a word: with [CLS] and [SEP] one over 35
    assert len(matcher.tokenizer(many).input_ids) == 36
    assert score(many + "dogs cat") == pytest.approx(score(many + "dogs boat"), abs=1e-6)
    assert score("dogs cat") != pytest.approx(score("dogs boat"), abs=1e-6)


def test_enc_token_is_a_choice(blip_filter: Path, matcher: BlipMatcher) -> None:
    encoder = BlipMatcher.open(locate(str(blip_filter)), itm_token="enc")
    cls, enc = matcher.match(pictures(1), [TEXTS[:1]])[0][0], encoder.match(pictures(1), [TEXTS[:1]])[0][0]
    assert cls.itc == pytest.approx(enc.itc, abs=1e-6)
    assert abs(cls.itm - enc.itm) > 1e-4


def test_released_tokenizers_lack_dec_and_enc(tmp_path: Path) -> None:
    """They are BERT's; the ids come from the config, [ENC] right after [DEC]."""
    judges = []
    for name, vocabulary in (("whole", VOCABULARY), ("bert", VOCABULARY[:-2])):
        make_tokenizer(make_blip(tmp_path / name, "filter"), vocabulary)
        judges.append(BlipMatcher.open(locate(str(tmp_path / name)), itm_token="enc"))
    whole, bert = (judge.match(pictures(1), [TEXTS])[0] for judge in judges)
    assert whole == bert
    make_tokenizer(make_blip(tmp_path / "none", "filter", bos_token_id=len(VOCABULARY) - 1), VOCABULARY[:-2])
    with pytest.raises(ModelError, match=r"no \[ENC\] token"):
        BlipMatcher.open(locate(str(tmp_path / "none")), itm_token="enc")


@pytest.mark.parametrize("prompt", ["a picture of", ""])
def test_greedy_equals_plain_generate(blip_captioner: Path, captioner: BlipCaptioner, prompt: str) -> None:
    theirs = BlipForConditionalGeneration.from_pretrained(blip_captioner).eval()
    images = pictures(5)
    pixels = pixels_of(blip_captioner, images)
    ids = captioner.tokenizer([prompt] * 5, return_tensors="pt").input_ids
    written = theirs.generate(pixels, ids, max_new_tokens=8, min_new_tokens=3, do_sample=False)
    expected = captioner.tokenizer.batch_decode(written[:, ids.shape[1] - 1 :], skip_special_tokens=True)
    ours = captioner.caption(
        images, names(5), replace(DECODING, strategy="greedy", prompt=prompt, per_image=2)
    )
    assert [row[0].text for row in ours] == [text.strip() for text in expected]
    assert all(row[0] == row[1] for row in ours)


def test_beam_equals_plain_generate_and_is_likelier_than_greedy(
    blip_captioner: Path, captioner: BlipCaptioner
) -> None:
    theirs = BlipForConditionalGeneration.from_pretrained(blip_captioner).eval()
    images = pictures(3)
    pixels = pixels_of(blip_captioner, images)
    ids = captioner.tokenizer(["a picture of"] * 3, return_tensors="pt").input_ids
    out = theirs.generate(
        pixels,
        ids,
        max_new_tokens=8,
        min_new_tokens=8,
        num_beams=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    decoding = replace(DECODING, strategy="beam", min_tokens=8)
    ours = captioner.caption(images, names(3), decoding)
    expected = captioner.tokenizer.batch_decode(out.sequences[:, 4:], skip_special_tokens=True)
    assert [row[0].text for row in ours] == [text.strip() for text in expected]
    # transformers scores a beam by its log-probability over its number of tokens, 8 here
    assert np.allclose([row[0].logprob for row in ours], out.sequences_scores.numpy() * 8, atol=1e-4)
    greedy = captioner.caption(images, names(3), replace(decoding, strategy="greedy"))
    assert sum(row[0].logprob for row in ours) >= sum(row[0].logprob for row in greedy)


class Numbers:
    """A tokenizer that reads as another does and writes token ids, special ones too."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.tokenizer(*args, **options)

    def batch_decode(self, rows: torch.Tensor, **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows.tolist()]


@pytest.mark.parametrize("strategy", ["nucleus", "greedy", "beam"])
def test_logprob_is_that_of_teacher_forcing_through_the_end(
    blip_captioner: Path, captioner: BlipCaptioner, strategy: Any
) -> None:
    theirs = BlipForConditionalGeneration.from_pretrained(blip_captioner).eval()
    text, image = theirs.config.text_config, pictures(1)[0]
    prompt = [text.bos_token_id, *captioner.tokenizer("a picture of", add_special_tokens=False).input_ids]
    decoding = replace(DECODING, strategy=strategy, min_tokens=1, max_tokens=6, top_p=1.0, per_image=80)
    numbers = replace(captioner, tokenizer=Numbers(captioner.tokenizer))
    written = numbers.caption([image], ["one"], decoding)[0]
    ended = 0
    for tokens, logprob in {(tuple(map(int, each.text.split())), each.logprob) for each in written}:
        if text.sep_token_id in tokens:
            tokens = tokens[: tokens.index(text.sep_token_id) + 1]
            ended += 1
        ids = torch.tensor([[*prompt, *tokens]])
        with torch.no_grad():
            logits = theirs(pixel_values=pixels_of(blip_captioner, [image]), input_ids=ids[:, :-1]).logits
        chosen = logits.log_softmax(-1)[0].gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        assert logprob == pytest.approx(float(chosen.sum()), abs=1e-4)
    assert ended > 1 or strategy != "nucleus"


def test_nucleus_draws_do_not_depend_on_the_company(captioner: BlipCaptioner) -> None:
    images, ids = pictures(5), names(5)
    decoding = replace(DECODING, per_image=3)
    together = captioner.caption(images, ids, decoding)
    assert len({written.text for row in together for written in row}) > 5
    for order in ([4, 2, 0], [1], [3, 1]):
        again = captioner.caption([images[i] for i in order], [ids[i] for i in order], decoding)
        assert [[w.text for w in row] for row in again] == [[w.text for w in together[i]] for i in order]
    alone = captioner.caption(images, ids, replace(decoding, per_image=1))
    assert [row[0].text for row in alone] == [row[0].text for row in together]
    other = captioner.caption(images, ids, replace(decoding, seed=8))
    assert other != together


def test_nucleus_draws_from_exactly_the_nucleus(blip_captioner: Path, captioner: BlipCaptioner) -> None:
    """Chi-squared of the first token over 4,000 captions against the distribution written out by hand."""
    image, draws = pictures(1)[0], 4000
    decoding = Decoding(top_p=0.8, min_tokens=1, max_tokens=1, per_image=draws, repetition_penalty=1.5)
    wide = replace(captioner, batch=1000)
    texts = Counter(written.text for written in wide.caption([image], ["one"], decoding)[0])

    theirs = BlipForConditionalGeneration.from_pretrained(blip_captioner).eval()
    prompt = [theirs.config.text_config.bos_token_id]
    prompt += captioner.tokenizer("a picture of", add_special_tokens=False).input_ids
    pixels = pixels_of(blip_captioner, [image])
    with torch.no_grad():
        logits = theirs(pixel_values=pixels, input_ids=torch.tensor([prompt])).logits[0, -1].double()
    for token in prompt:
        logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
    logits[theirs.config.text_config.sep_token_id] = -torch.inf
    chances = logits.softmax(-1).numpy()
    order = np.argsort(-chances)
    kept = order[: int((np.cumsum(chances[order]) < 0.8).sum()) + 1]
    expected: Counter[str] = Counter()
    for token in kept:
        text = captioner.tokenizer.decode([token], skip_special_tokens=True).strip()
        expected[text] += draws * chances[token] / chances[kept].sum()
    assert len(kept) > 5
    assert set(texts) <= set(expected)
    statistic = sum((texts[text] - count) ** 2 / count for text, count in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_lengths_hold(captioner: BlipCaptioner) -> None:
    decoding = replace(DECODING, min_tokens=4, max_tokens=4, prompt="")
    for (written,) in captioner.caption(pictures(6), names(6), decoding):
        assert len(captioner.tokenizer(written.text, add_special_tokens=False).input_ids) <= 4


def test_no_images(captioner: BlipCaptioner, matcher: BlipMatcher) -> None:
    assert captioner.caption([], [], DECODING) == []
    assert matcher.match([], []) == []


def test_too_long_captions_are_refused(captioner: BlipCaptioner) -> None:
    with pytest.raises(UsageError, match="4 prompt tokens \\+ max_tokens 61 > 64 positions"):
        captioner.caption(pictures(1), names(1), replace(DECODING, max_tokens=61))


def test_a_checkpoint_cannot_change_the_decoding(tmp_path: Path) -> None:
    """Generation defaults beside the weights would silently win over what a recipe leaves open."""
    plain = make_blip(tmp_path / "plain", "captioner")
    odd = make_blip(tmp_path / "odd", "captioner")
    (odd / "generation_config.json").write_text(
        '{"num_beams": 4, "repetition_penalty": 9.0, "max_length": 5}'
    )
    greedy = replace(DECODING, strategy="greedy")
    written = [
        BlipCaptioner.open(locate(str(where))).caption(pictures(2), names(2), greedy)
        for where in (plain, odd)
    ]
    assert written[0] == written[1]
