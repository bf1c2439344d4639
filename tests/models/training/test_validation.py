import numpy as np
import pytest
import torch
from PIL import Image

from capfilt.models.engine.captioner import EngineCaptioner
from capfilt.models.engine.matcher import EngineMatcher
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.protocols import Decoding
from capfilt.models.statistics.roc import roc_auc
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.validation import Validation


@pytest.fixture
def validation(pairs: PairSet) -> Validation:
    found = Validation.of(pairs)
    assert found is not None
    return found


def test_the_filters_figures_are_those_of_the_engine(
    validation: Validation, model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    with torch.no_grad():
        found = validation.filter(model.eval(), tokenizer)
    images = [Image.fromarray(image) for image in pairs.images]
    both = [
        [text, validation.texts[other]]
        for text, other in zip(validation.texts, validation.other, strict=True)
    ]
    assert all(own != other for own, other in both)
    matches = EngineMatcher(model, tokenizer).match(images, both)
    itm = np.array([[match.itm for match in own] for own in matches])
    assert found["validation_itm"] == pytest.approx(-np.log([itm[:, 0], 1 - itm[:, 1]]).mean(), abs=1e-4)
    assert found["validation_yes"] == pytest.approx((itm > 0.5).mean())
    labels = [1] * 48 + [0] * 48
    itc = [own[kind].itc for kind in (0, 1) for own in matches]
    assert found["validation_itc_auc"] == pytest.approx(roc_auc(labels, itc), abs=1e-3)


def test_the_captioner_repeats_itself_as_its_greedy_captions_do(
    validation: Validation, model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    prompt = "a picture of"
    with torch.no_grad():
        found = validation.repetition(model.eval(), tokenizer, prompt)
    images = [Image.fromarray(image) for image in pairs.images]
    greedy = Decoding(strategy="greedy", min_tokens=0, max_tokens=model.config.max_tokens - 4, prompt=prompt)
    written = [
        own[0].text for own in EngineCaptioner(model, tokenizer).caption(images, pairs.image_ids, greedy)
    ]
    assert found["validation_same"] == pytest.approx(max(map(written.count, written)) / 48, abs=0.05)
    assert found["validation_same_human"] == pytest.approx(3 / 48)


def test_one_text_leaves_nothing_to_compare() -> None:
    assert Validation.of(PairSet(np.zeros((3, 8, 8, 3), np.uint8), [["a"]] * 3, list("xyz"))) is None
