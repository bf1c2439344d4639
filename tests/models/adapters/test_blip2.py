"""BLIP-2's judge against transformers' own forward."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, Blip2ForImageTextRetrieval

from capfilt.models.adapters.blip2 import Blip2Matcher
from capfilt.models.checkpoint import locate
from tests.adapter_checkpoints import Made
from tests.models.drawn_images import pictures

torch.set_num_threads(1)

TEXTS = ["a red dog", "two cats on the beach near a small boat", "blue house", "a"]


@pytest.fixture(scope="module")
def matcher(adapter_checkpoint: Made) -> Blip2Matcher:
    return Blip2Matcher.open(locate(str(adapter_checkpoint("blip2_filter"))), batch=3)


def test_scores_equal_transformers_own_for_every_pair(
    adapter_checkpoint: Made, matcher: Blip2Matcher
) -> None:
    theirs = Blip2ForImageTextRetrieval.from_pretrained(adapter_checkpoint("blip2_filter")).eval()
    processor = AutoImageProcessor.from_pretrained(adapter_checkpoint("blip2_filter"))
    images, texts = pictures(4), [TEXTS, TEXTS[:1], [], TEXTS[1:]]
    ours = matcher.match(images, texts)
    assert [len(row) for row in ours] == [4, 1, 0, 3]
    spread = set()
    for image, own, row in zip(images, texts, ours, strict=True):
        pixels = processor([image], return_tensors="pt")["pixel_values"]
        for text, match in zip(own, row, strict=True):
            read = matcher.tokenizer(text, return_tensors="pt")
            ids = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
            with torch.inference_mode():
                logits = theirs(pixels, **ids, use_image_text_matching_head=True).logits_per_image
                cosine = theirs(pixels, **ids, use_image_text_matching_head=False).logits_per_image
            assert match.itm == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-5)
            assert match.itc == pytest.approx(float(cosine[0, 0]), abs=1e-5)
            spread.add(round(match.itm, 3))
    assert len(spread) > 4  # or the comparison would prove nothing


def test_scores_do_not_depend_on_the_company(adapter_checkpoint: Made, matcher: Blip2Matcher) -> None:
    images = pictures(5)
    together = Blip2Matcher.open(locate(str(adapter_checkpoint("blip2_filter"))), batch=100).match(
        images, [TEXTS] * 5
    )
    for image, row in zip(images, together, strict=True):
        assert np.allclose(matcher.match([image], [TEXTS])[0], row, atol=1e-5)


def test_an_images_one_vector_is_near_to_what_its_queries_say(matcher: Blip2Matcher) -> None:
    images = pictures(4)
    seen, read = matcher.embed_images(images), matcher.embed_texts(TEXTS)
    assert seen.shape == read.shape == (4, 16)
    assert seen.dtype == read.dtype == np.float32
    assert np.allclose(np.linalg.norm(np.concatenate([seen, read]), axis=1), 1, atol=1e-5)
    best = np.array([[match.itc for match in row] for row in matcher.match(images, [TEXTS] * 4)])
    assert np.corrcoef((seen @ read.T).ravel(), best.ravel())[0, 1] > 0.8
    assert matcher.embed_images([]).shape == matcher.embed_texts([]).shape == (0, 16)


def test_texts_are_read_normalised_and_cut(matcher: Blip2Matcher) -> None:
    same = matcher.embed_texts(["A (red) dog!", "a red dog"])
    assert np.allclose(same[0], same[1], atol=1e-6)
    many = "dogs " * 15  # two tokens a word: with [CLS] and [SEP] exactly 32
    assert len(matcher.tokenizer(many).input_ids) == 32
    cut = matcher.embed_texts([many + "cat", many + "boat"])
    assert np.allclose(cut[0], cut[1], atol=1e-6)
