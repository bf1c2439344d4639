from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.text.edits import Edits
from capfilt.models.training.augment import Crop, randaugment
from capfilt.models.training.data import Batch, Batches, PairSource, shares
from capfilt.models.training.distributed import WorkerGroup
from capfilt.models.training.pairs import PairSet, demand_variety, frequent_words
from capfilt.models.training.settings import LoopSettings

SETTINGS = LoopSettings(steps=10, lr=1e-3, batch=10, crop=0.7)


def make(
    tokenizer: CaptionTokenizer, *sources: PairSource, edits: Edits | None = None, **changes: object
) -> Batches:
    return Batches(
        sources,
        tokenizer,
        replace(SETTINGS, **changes),
        max_tokens=12,
        edits=edits,  # type: ignore[arg-type]
    )


def same(left: Batch, right: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(left, right, strict=True)
    )


def test_a_batch_is_a_function_of_seed_and_number(pairs: PairSet, tokenizer: CaptionTokenizer) -> None:
    sources = (PairSource(pairs, 0.3), PairSource(pairs, 0.7))
    first, again, other = (make(tokenizer, *sources, seed=seed) for seed in (0, 0, 1))
    first(0)
    assert same(first(5), again(5))
    assert not torch.equal(first(5).keys, other(5).keys)


@pytest.mark.parametrize("size", [2, 5])
def test_workers_share_out_one_and_the_same_batch(
    size: int, pairs: PairSet, tokenizer: CaptionTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerGroup, "most", lambda self, count: 12)
    sources = [PairSource(pairs, 0.3), PairSource(pairs, 0.7)]
    whole = Batches(sources, tokenizer, replace(SETTINGS, flip=True), max_tokens=12)(3)
    parts = [
        Batches(
            sources, tokenizer, replace(SETTINGS, flip=True), max_tokens=12, world=WorkerGroup(rank, size)
        )(3)
        for rank in range(size)
    ]
    for name in ("pixels", "ids", "keys"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert {part.human for part in parts} == {3}


def test_the_first_source_comes_first_and_each_has_its_share(
    pairs: PairSet, tokenizer: CaptionTokenizer
) -> None:
    dark = PairSet(np.zeros_like(pairs.images), pairs.own, [f"web {name}" for name in pairs.image_ids])
    batch = make(tokenizer, PairSource(pairs, 0.3), PairSource(dark, 0.7))(0)
    assert batch.human == 3
    darkest = batch.pixels.flatten(1).amax(1)
    assert (darkest < -1.0).tolist() == [False] * 3 + [True] * 7
    assert make(tokenizer, PairSource(pairs, 1.0))(0).human == 10


@pytest.mark.parametrize(
    ("weights", "size", "counts"),
    [([1], 5, [5]), ([0.3, 0.7], 10, [3, 7]), ([1, 1, 1], 8, [3, 3, 2]), ([0.01, 0.99], 10, [1, 9])],
)
def test_shares_add_up_and_nobody_is_left_out(weights: list[float], size: int, counts: list[int]) -> None:
    assert shares(weights, size) == counts


def test_the_texts_of_an_image_take_turns(tokenizer: CaptionTokenizer) -> None:
    two = PairSet(np.zeros((2, 32, 32, 3), np.uint8), [["red", "blue"], ["green"]], ["a", "b"])
    batches = make(tokenizer, PairSource(two, 1.0), batch=2, crop=1.0)
    assert {text for number in range(2) for text in batches(number).texts} == {"red", "blue", "green"}


def test_same_image_and_same_text_share_a_key(pairs: PairSet, tokenizer: CaptionTokenizer) -> None:
    batch = make(tokenizer, PairSource(pairs, 0.5), PairSource(pairs, 0.5))(0)
    for left in range(10):
        for right in range(10):
            alike = (batch.keys[left, 1] == batch.keys[right, 1]).item()
            assert alike == (batch.texts[left] == batch.texts[right])
    assert (batch.keys >= 0).all()


def test_edited_texts_are_false_and_say_where_there_is_one(
    pairs: PairSet, tokenizer: CaptionTokenizer
) -> None:
    texts = [[f"a {own[0].replace(' above ', ' dog above a ')} cat"] for own in pairs.own]
    pairs = PairSet(pairs.images, texts, pairs.image_ids)
    blank = PairSet(pairs.images[:4], [["nothing here"]] * 4, ["w", "x", "y", "z"])
    edits = Edits.of(text for own in pairs.own for text in own)
    sources = (PairSource(pairs, 0.6), PairSource(blank, 0.4))
    batch = make(tokenizer, *sources, edits=edits)(0)
    assert batch.changed.any(0).tolist() == [True] * 6 + [False] * 4
    wide = batch.edited.shape[-1]
    own = torch.nn.functional.pad(batch.ids, (0, wide - batch.ids.shape[1]), value=tokenizer.pad)
    for kind, row in batch.changed.nonzero().tolist():
        assert not torch.equal(batch.edited[kind, row], own[row])
    first = [batch.edited[kind, 0].tolist() for kind in batch.changed[:, 0].nonzero()[:, 0].tolist()]
    assert len({tuple(ids) for ids in first}) == len(first) >= 2  # an object, a relation
    assert same(batch, make(tokenizer, *sources, edits=edits)(0))


def test_randaugment_keeps_the_shape_and_depends_on_its_draw_alone(pairs: PairSet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    made = [randaugment(image, 2, Random(draw)) for draw in range(30)]
    assert {(one.shape, one.dtype) for one in made} == {((32, 32, 3), np.dtype(np.uint8))}
    assert len({one.tobytes() for one in made}) > 15
    assert np.array_equal(made[7], randaugment(image, 2, Random(7)))


def test_pair_sets_that_do_not_fit_are_refused() -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(TrainingError, match="differ in number"):
        PairSet(images, [["a"]], ["x", "y"])
    with pytest.raises(TrainingError, match="without a text"):
        PairSet(images, [["a"], []], ["x", "y"])


def test_captions_that_say_the_same_of_everything_are_refused() -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    ids = ["a", "b", "c", "d"]
    demand_variety(PairSet(images, [["one"], ["two"], ["three"], ["four"]], ids))
    with pytest.raises(TrainingError, match="say the same of most images") as caught:
        demand_variety(PairSet(images, [["One.", "1"], ["one"], ["two"], ["three"]], ids))
    assert caught.value.evidence == "2 of 4 images have the caption 'one'"


def test_words_that_every_caption_has_say_nothing() -> None:
    texts = [["a red dog here"], ["a red cat here"], ["one dog here"], ["a bird here"], ["the cat here too"]]
    assert frequent_words(texts, 3) == ["cat", "dog", "red"]


def test_crops_keep_shape_and_no_crop_changes_nothing() -> None:
    pixels = torch.rand(4, 3, 16, 16)
    assert Crop.draw(4, replace(SETTINGS, crop=1.0), 0)(pixels) is pixels
    cropped = Crop.draw(4, replace(SETTINGS, crop=0.5), 0)(pixels)
    assert cropped.shape == pixels.shape
    assert not torch.allclose(cropped, pixels)
    mirrored = Crop.draw(4, replace(SETTINGS, crop=1.0, flip=True), 0)(pixels)
    for before, after in zip(pixels, mirrored, strict=True):
        assert torch.allclose(after, before, atol=1e-5) or torch.allclose(after, before.flip(2), atol=1e-5)
