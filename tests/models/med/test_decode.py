from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from models.med.adapter import MedModel
from models.med.decode import nucleus_choice
from models.med.model import Med
from models.med.tokenizer import CaptionTokenizer
from models.protocols import Decoding

DECODING = Decoding(max_tokens=8, min_tokens=2)


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def names(count: int) -> list[str]:
    return [f"image-{number}" for number in range(count)]


@pytest.fixture
def med(model: Med, tokenizer: CaptionTokenizer) -> MedModel:
    return MedModel(model, tokenizer)


@torch.inference_mode()
def test_greedy_is_argmax_without_a_cache(med: MedModel) -> None:
    model, tokenizer = med.model, med.tokenizer
    images = pictures(4)
    prompt = tokenizer.pieces(DECODING.prompt)
    for image, (written,) in zip(
        images, med.caption(images, names(4), replace(DECODING, strategy="greedy")), strict=True
    ):
        states = med._states([image])
        ids, logprob = [tokenizer.dec, *prompt], 0.0
        for step in range(DECODING.max_tokens):
            kept = model.text_encoder.image_keys_values(states)
            raw = model.text_decoder(torch.tensor([ids]), kept)[0][0, -1].log_softmax(-1)
            allowed = raw.clone()
            if step < DECODING.min_tokens:
                allowed[tokenizer.sep] = -torch.inf
            choice = int(allowed.argmax())
            logprob += float(raw[choice])
            if choice == tokenizer.sep:
                break
            ids.append(choice)
        assert written.text == tokenizer.decode(ids[1 + len(prompt) :])
        assert written.logprob == pytest.approx(logprob, abs=1e-4)


def test_the_nucleus_is_drawn_from_in_proportion() -> None:
    probability = torch.tensor([0.4, 0.05, 0.25, 0.2, 0.1])  # the nucleus of 0.8 is 0.4, 0.25, 0.2
    draws = 20_000
    noise = torch.from_numpy(np.random.default_rng(1).gumbel(size=(draws, 5)).astype(np.float32))
    chosen = nucleus_choice(probability.log().expand(draws, -1), noise, 0.8)
    counts = torch.bincount(chosen, minlength=5).double()
    expected = torch.tensor([0.4, 0.0, 0.25, 0.2, 0.0]).double() / 0.85 * draws
    assert counts[[1, 4]].sum() == 0
    inside = [0, 2, 3]
    chi_square = ((counts[inside] - expected[inside]) ** 2 / expected[inside]).sum()
    assert chi_square < 13.8  # two degrees of freedom, p = 0.001


def test_a_caption_depends_neither_on_its_batch_nor_on_how_many_are_drawn(
    model: Med, tokenizer: CaptionTokenizer
) -> None:
    images, ids = pictures(16), names(16)
    together = MedModel(model, tokenizer, batch=16).caption(images, ids, replace(DECODING, per_image=3))
    in_fives = MedModel(model, tokenizer, batch=5).caption(images, ids, DECODING)
    for number in range(16):
        alone = MedModel(model, tokenizer).caption(
            images[number : number + 1], ids[number : number + 1], DECODING
        )
        texts = {rows[0].text for rows in (together[number], in_fives[number], alone[0])}
        assert len(texts) == 1
    assert len({written.text for own in together for written in own}) > 16


def test_a_beam_of_one_is_greedy_and_wider_beams_are_no_less_likely(med: MedModel) -> None:
    images, ids = pictures(6), names(6)
    greedy = med.caption(images, ids, replace(DECODING, strategy="greedy"))
    one = med.caption(images, ids, replace(DECODING, strategy="beam", beams=1))
    assert [own[0].text for own in one] == [own[0].text for own in greedy]
    wide = med.caption(images, ids, replace(DECODING, strategy="beam", beams=4))
    assert sum(own[0].logprob for own in wide) >= sum(own[0].logprob for own in one) - 1e-3
    single = MedModel(med.model, med.tokenizer, batch=1)
    assert (
        single.caption(images, ids, replace(DECODING, strategy="beam", beams=4))[3][0].text == wide[3][0].text
    )


def test_matching_in_a_batch_is_matching_alone(med: MedModel) -> None:
    images = pictures(3)
    texts = [["a red square", "a blue circle above a green square"], [], ["untitled"]]
    together = med.match(images, texts)
    assert [len(own) for own in together] == [2, 0, 1]
    alone = med.match(images[:1], [["a red square"]])[0][0]
    assert together[0][0] == pytest.approx(alone, abs=1e-5)
    cosine = float(med.embed_images(images)[2] @ med.embed_texts(["untitled"])[0])
    assert together[2][0].itc == pytest.approx(cosine, abs=1e-5)
    assert med.match([], []) == []
