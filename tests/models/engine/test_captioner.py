"""Captions against transformers' own ``generate``, token by token, on tiny checkpoints."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration

from capfilt.data_contracts.errors import ModelError, UsageError
from capfilt.models.engine.captioner import EngineCaptioner
from capfilt.models.images.prepare import prepare
from capfilt.models.med.checkpoint import load
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.protocols import FLOAT32, Decoding, Inference
from tests.blip_checkpoint import make_blip
from tests.models.engine.looks import names, open_captioner, pictures, pixels_of

DECODING = Decoding(min_tokens=3, max_tokens=8, seed=7)


class Numbers(CaptionTokenizer):
    """Reads as a tokenizer does and writes token ids, special ones too."""

    def __init__(self, tokenizer: CaptionTokenizer) -> None:
        super().__init__(tokenizer._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def open_numbers(where: Path, batch: int = 16, inference: Inference = FLOAT32) -> EngineCaptioner:
    model, tokenizer = load(where)
    return EngineCaptioner(model, Numbers(tokenizer), inference, batch=batch)


def ids_of(captioner: EngineCaptioner, decoding: Decoding, images: list[Image.Image]) -> list[list[int]]:
    written = captioner.caption(images, names(len(images)), decoding)
    return [[int(token) for token in own[0].text.split()] for own in written]


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner whose captions end early, at different lengths: the end token's bias is raised."""
    from safetensors.torch import load_file, save_file

    where = make_blip(tmp_path_factory.mktemp("ending") / "captioner", "captioner", seed=3)
    weights = load_file(where / "model.safetensors")
    weights["text_decoder.cls.predictions.bias"][3] += 2.5
    save_file(weights, where / "model.safetensors", metadata={"format": "pt"})
    return where


@pytest.fixture(scope="module")
def captioner(blip_captioner: Path) -> EngineCaptioner:
    return open_numbers(blip_captioner, batch=4)


def generated(
    where: Path, images: list[Image.Image], prompt: Sequence[int], **options: Any
) -> tuple[list[list[int]], Any]:
    """What transformers writes after the prompt, end and pads cut off, and everything it returns."""
    theirs = BlipForConditionalGeneration.from_pretrained(where).eval()
    end = theirs.config.text_config.sep_token_id
    ids = torch.tensor([[*prompt, end]] * len(images))  # generate drops the last one
    out = theirs.generate(
        pixels_of(where, images), ids, return_dict_in_generate=True, output_scores=True, **options
    )
    rows = out.sequences[:, len(prompt) :].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows], out


@pytest.mark.parametrize("fixture", ["blip_captioner", "ending"])
@pytest.mark.parametrize("prompt", ["a picture of", "", "dog"])
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ({"strategy": "greedy"}, {}),
        ({"strategy": "greedy", "repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"strategy": "beam", "beams": 3}, {"num_beams": 3}),
        (
            {"strategy": "beam", "beams": 5, "repetition_penalty": 1.3},
            {"num_beams": 5, "repetition_penalty": 1.3},
        ),
    ],
)
def test_tokens_equal_generate(
    request: pytest.FixtureRequest, fixture: str, prompt: str, strategy: Any, options: Any
) -> None:
    where = request.getfixturevalue(fixture)
    captioner, images = open_numbers(where, batch=8), pictures(5)
    ids = [captioner.config.dec, *captioner.tokenizer.pieces(prompt)]
    expected, _ = generated(
        where, images, ids, max_new_tokens=12, min_new_tokens=2, do_sample=False, **options
    )
    decoding = replace(DECODING, min_tokens=2, max_tokens=12, prompt=prompt, **strategy)
    assert ids_of(captioner, decoding, images) == expected
    if fixture == "ending" and options.get("repetition_penalty") is None:
        assert {len(row) for row in expected} != {12}  # or ends would not be tested


def test_a_beam_is_scored_as_transformers_scores_it(ending: Path) -> None:
    captioner, images = open_numbers(ending), pictures(4)
    prompt = [captioner.config.dec, *captioner.tokenizer.pieces("a picture of")]
    tokens, out = generated(ending, images, prompt, max_new_tokens=8, min_new_tokens=3, num_beams=3)
    ours = captioner.caption(images, names(4), replace(DECODING, strategy="beam"))
    # transformers' score is the log-probability over the number of tokens, the end included
    counts = np.array([min(len(row) + 1, 8) for row in tokens])
    assert np.allclose([own[0].logprob for own in ours], out.sequences_scores.numpy() * counts, atol=1e-4)


@pytest.mark.parametrize("strategy", ["nucleus", "top_k", "greedy", "beam"])
def test_logprob_is_that_of_teacher_forcing_through_the_end(ending: Path, strategy: Any) -> None:
    theirs = BlipForConditionalGeneration.from_pretrained(ending).eval()
    captioner, image = open_numbers(ending), pictures(1)[0]
    end, prompt = captioner.config.sep, [captioner.config.dec, *captioner.tokenizer.pieces("a picture of")]
    decoding = replace(DECODING, strategy=strategy, min_tokens=1, max_tokens=6, top_p=1.0, per_image=40)
    ended = set()
    for written in set(captioner.caption([image], ["one"], decoding)[0]):
        tokens = [int(token) for token in written.text.split()]
        ended.add(len(tokens) < 6)
        ids = torch.tensor([[*prompt, *tokens, *([end] if len(tokens) < 6 else [])]])
        with torch.no_grad():
            logits = theirs(pixel_values=pixels_of(ending, [image]), input_ids=ids[:, :-1]).logits
        chosen = logits.log_softmax(-1)[0].gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        assert written.logprob == pytest.approx(float(chosen.sum()), abs=1e-4)
    assert ended == {True, False} or strategy in ("greedy", "beam")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_caption_is_the_same_bit_for_bit_in_any_company(ending: Path, precision: Any) -> None:
    """Alone, in a batch of 16, one or three an image, entering and leaving in any order."""
    inference = Inference(precision)
    images, ids = pictures(16), names(16)
    decoding = replace(DECODING, min_tokens=1, max_tokens=12)
    wide = open_captioner(ending, 16, inference)
    together = wide.caption(images, ids, decoding)
    assert len({len(own[0].text.split()) for own in together}) > 3  # rows do leave at different steps
    threes = wide.caption(images, ids, replace(decoding, per_image=3))
    crowd = open_captioner(ending, 64, inference).caption(images, ids, replace(decoding, per_image=3))
    assert crowd == threes
    assert [own[:1] for own in threes] == together
    narrow = open_captioner(ending, 3, inference).caption(images[::-1], ids[::-1], decoding)
    assert narrow[::-1] == together
    for number in range(0, 16, 5):
        alone = wide.caption(images[number : number + 1], ids[number : number + 1], decoding)
        assert alone == together[number : number + 1]


@torch.inference_mode()
def test_a_model_of_our_own_writes_what_it_computes(model: Med, tokenizer: CaptionTokenizer) -> None:
    """A convolutional stem, no checkpoint: greedy against forward passes without a cache."""
    captioner, images = EngineCaptioner(model, Numbers(tokenizer)), pictures(4)
    decoding = replace(DECODING, strategy="greedy")
    prompt = [tokenizer.dec, *tokenizer.pieces("a picture of")]
    for image, own in zip(images, ids_of(captioner, decoding, images), strict=True):
        kept = model.text_decoder.bert.image_keys_values(model.encode_images(prepare([image], 32)))
        ids = list(prompt)
        for step in range(decoding.max_tokens):
            logits = model.text_decoder(torch.tensor([ids]), kept)[0][0, -1]
            if step < decoding.min_tokens:
                logits[tokenizer.sep] = -torch.inf
            if (choice := int(logits.argmax())) == tokenizer.sep:
                break
            ids.append(choice)
        assert own == ids[len(prompt) :]


def test_draws_depend_on_seed_image_and_index(captioner: EngineCaptioner) -> None:
    decoding = replace(DECODING, per_image=3)
    captions = captioner.caption(pictures(5), names(5), decoding)
    assert len({written.text for own in captions for written in own}) > 5
    assert captioner.caption(pictures(5), names(5), replace(decoding, seed=8)) != captions
    assert captioner.caption(pictures(5), names(6)[1:], decoding) != captions


@pytest.mark.parametrize("strategy", ["nucleus", "top_k"])
def test_draws_come_from_exactly_the_truncated_distribution(
    blip_captioner: Path, captioner: EngineCaptioner, strategy: Any
) -> None:
    """Chi-squared of the first token over 4,000 captions against the distribution written out by hand."""
    image, draws = pictures(1)[0], 4000
    decoding = Decoding(
        strategy, top_p=0.8, top_k=7, min_tokens=1, max_tokens=1, per_image=draws, repetition_penalty=1.5
    )
    wide = open_numbers(blip_captioner, batch=1000)
    counts = Counter(int(written.text) for written in wide.caption([image], ["one"], decoding)[0])

    theirs = BlipForConditionalGeneration.from_pretrained(blip_captioner).eval()
    prompt = [captioner.config.dec, *captioner.tokenizer.pieces("a picture of")]
    with torch.no_grad():
        pixels = pixels_of(blip_captioner, [image])
        logits = theirs(pixel_values=pixels, input_ids=torch.tensor([prompt])).logits[0, -1].double()
    for token in prompt:
        logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
    logits[captioner.config.sep] = -torch.inf
    chances = logits.softmax(-1).numpy()
    order = np.argsort(-chances)
    kept = order[:7] if strategy == "top_k" else order[: int((np.cumsum(chances[order]) < 0.8).sum()) + 1]
    expected = {int(token): draws * chances[token] / chances[kept].sum() for token in kept}
    assert len(kept) > 5
    assert set(counts) <= set(expected)
    statistic = sum((counts[token] - count) ** 2 / count for token, count in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_lengths_hold(captioner: EngineCaptioner, ending: Path) -> None:
    exact = replace(DECODING, min_tokens=4, max_tokens=4, prompt="")
    assert {len(row) for row in ids_of(captioner, exact, pictures(6))} == {4}
    for strategy in ("nucleus", "greedy", "beam"):
        decoding = replace(DECODING, strategy=strategy, min_tokens=5, max_tokens=9)
        assert all(5 <= len(row) <= 9 for row in ids_of(open_numbers(ending), decoding, pictures(6)))


def test_no_images(captioner: EngineCaptioner) -> None:
    assert captioner.caption([], [], DECODING) == []
    assert captioner.caption([], [], replace(DECODING, strategy="beam")) == []


def test_too_long_captions_are_refused(captioner: EngineCaptioner) -> None:
    with pytest.raises(UsageError, match="1 \\+ 3 prompt tokens \\+ max_tokens 61 > 64 positions"):
        captioner.caption(pictures(1), names(1), replace(DECODING, max_tokens=61))


def test_a_filter_cannot_write(blip_filter: Path) -> None:
    with pytest.raises(ModelError, match="cannot serve as the captioner"):
        open_captioner(blip_filter)


def test_a_checkpoint_cannot_change_the_decoding(tmp_path: Path) -> None:
    """Generation defaults beside the weights would silently win over what a recipe leaves open."""
    plain = make_blip(tmp_path / "plain", "captioner")
    odd = make_blip(tmp_path / "odd", "captioner")
    (odd / "generation_config.json").write_text(
        '{"num_beams": 4, "repetition_penalty": 9.0, "max_length": 5}'
    )
    greedy = replace(DECODING, strategy="greedy")
    written = [open_captioner(where).caption(pictures(2), names(2), greedy) for where in (plain, odd)]
    assert written[0] == written[1]
