import numpy as np
import pytest
import torch

from data_contracts.errors import TrainingError
from models.med.tokenizer import CaptionTokenizer
from models.training.augment import random_resized_crop
from models.training.data import Batches, PairSet, frequent_words, shuffled, word_targets


def make(human: PairSet, web: PairSet | None, tokenizer: CaptionTokenizer, seed: int = 0) -> Batches:
    return Batches(
        human, web, tokenizer, size=10, max_tokens=12, human_share=0.3, crop=0.7, flip=False, seed=seed
    )


def test_a_batch_is_a_function_of_seed_and_step(pairs: PairSet, tokenizer: CaptionTokenizer) -> None:
    first, again, other = (
        make(pairs, pairs, tokenizer),
        make(pairs, pairs, tokenizer),
        make(pairs, pairs, tokenizer, 1),
    )
    first(0)
    for left, right in zip(first(5), again(5), strict=True):
        assert torch.equal(torch.as_tensor(left), torch.as_tensor(right))
    assert not torch.equal(first(5).keys, other(5).keys)


def test_the_human_share_comes_first(pairs: PairSet, tokenizer: CaptionTokenizer) -> None:
    web = PairSet(np.zeros_like(pairs.images), pairs.texts, [f"web {name}" for name in pairs.image_ids])
    batch = make(pairs, web, tokenizer)(0)
    assert batch.human == 3
    darkest = batch.pixels.flatten(1).amax(1)
    assert (darkest < -1.0).tolist() == [False] * 3 + [True] * 7
    assert make(pairs, None, tokenizer)(0).human == 10


def test_every_image_comes_once_an_epoch_and_texts_take_turns(tokenizer: CaptionTokenizer) -> None:
    for epoch in range(3):
        rows = np.concatenate([shuffled(12, 7, epoch * 3 + step, 4) for step in range(3)])
        assert sorted(rows) == list(range(12))
    two = PairSet(np.zeros((2, 32, 32, 3), np.uint8), [["red", "blue"], ["green"]], ["a", "b"])
    batches = Batches(two, None, tokenizer, size=2, max_tokens=8, human_share=1, crop=1, flip=False, seed=0)
    seen = {tokenizer.decode(row.tolist()) for step in range(2) for row in batches(step).ids}
    assert seen == {"red", "blue", "green"}


def test_same_image_and_same_text_share_a_key(pairs: PairSet, tokenizer: CaptionTokenizer) -> None:
    batch = make(pairs, pairs, tokenizer)(0)  # the web set repeats the human images
    texts = [tuple(row.tolist()) for row in batch.ids]
    for left in range(10):
        for right in range(10):
            assert (batch.keys[left, 1] == batch.keys[right, 1]).item() == (texts[left] == texts[right])


def test_pair_sets_that_do_not_fit_are_refused() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(TrainingError, match="differ in number"):
        PairSet(images, [["a"]], ["x", "y"])
    with pytest.raises(TrainingError, match="without a text"):
        PairSet(images, [["a"], []], ["x", "y"])


def test_words_that_every_caption_has_say_nothing() -> None:
    texts = [["a red dog here"], ["a red cat here"], ["one dog here"], ["a bird here"], ["the cat here too"]]
    pairs = PairSet(np.zeros((5, 8, 8, 3), np.uint8), texts, list("abcde"))
    words = frequent_words(pairs, 3)
    assert words == ["cat", "dog", "red"]
    assert word_targets(pairs, words)[0].tolist() == [0.0, 0.5, 0.5]
    assert word_targets(pairs, words)[3].sum() == 0


def test_crops_keep_shape_and_no_crop_changes_nothing() -> None:
    pixels = torch.rand(4, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    assert random_resized_crop(pixels, 1.0, False, generator) is pixels
    cropped = random_resized_crop(pixels, 0.5, False, generator)
    assert cropped.shape == pixels.shape
    assert not torch.allclose(cropped, pixels)
    mirrored = random_resized_crop(pixels, 1.0, True, generator)
    for before, after in zip(pixels, mirrored, strict=True):
        assert torch.allclose(after, before, atol=1e-5) or torch.allclose(after, before.flip(2), atol=1e-5)
