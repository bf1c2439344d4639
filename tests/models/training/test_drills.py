"""Trainings that go wrong are stopped, each with its own message."""

import copy
import random
from dataclasses import replace

import pytest

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.training.jobs import finetune_captioner, finetune_filter, pretrain, warm_up
from capfilt.models.training.loop import Execution
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)
from tests.models.training.conftest import coloured_pairs, small_model

PRETRAIN = PretrainSettings(steps=200, lr=2e-3, warmup=10, batch=24, crop=1.0, itm_latest=0.3)
FILTER = FilterSettings(steps=120, lr=1e-3, batch=24, crop=1.0)


def shuffled(pairs: PairSet) -> PairSet:
    texts = [*pairs.own]
    random.Random(0).shuffle(texts)
    return PairSet(pairs.images, texts, pairs.image_ids)


@pytest.fixture(scope="module")
def many() -> PairSet:
    return coloured_pairs(240)


@pytest.fixture(scope="module")
def held_out() -> PairSet:
    return coloured_pairs(60)


@pytest.fixture(scope="module")
def healthy(many: PairSet, held_out: PairSet, tokenizer: CaptionTokenizer) -> Med:
    model = small_model(tokenizer)
    warm_up(model, tokenizer, many, WarmupSettings(steps=40, lr=3e-3, batch=24, crop=1.0), Execution())
    pretrain(model, tokenizer, many, (), PRETRAIN, Execution(), held_out)
    return model


def test_what_is_healthy_goes_through(
    healthy: Med, many: PairSet, held_out: PairSet, tokenizer: CaptionTokenizer
) -> None:
    records: list[dict[str, float]] = []
    run = Execution(on_step=records.append)
    finetune_filter(copy.deepcopy(healthy), tokenizer, many, (), FILTER, run, held_out)
    assert records[-1]["validation_itm_auc"] > 0.9
    finetune_captioner(
        copy.deepcopy(healthy),
        tokenizer,
        many,
        (),
        CaptionerSettings(steps=40, lr=1e-3, batch=24),
        run,
        held_out,
    )
    assert records[-1]["validation_same"] < 0.5


def test_a_learning_rate_a_hundred_times_too_high(
    healthy: Med, many: PairSet, held_out: PairSet, tokenizer: CaptionTokenizer
) -> None:
    with pytest.raises(TrainingError, match=r"diverges|no longer a finite number"):
        pretrain(
            copy.deepcopy(healthy),
            tokenizer,
            many,
            (),
            replace(PRETRAIN, lr=100 * PRETRAIN.lr),
            Execution(),
            held_out,
        )


def test_pairs_of_which_none_matches(
    healthy: Med, many: PairSet, held_out: PairSet, tokenizer: CaptionTokenizer
) -> None:
    with pytest.raises(TrainingError, match="predicts one class only: it calls nothing a match"):
        finetune_filter(
            copy.deepcopy(healthy), tokenizer, shuffled(many), (), FILTER, Execution(), shuffled(held_out)
        )


def test_shuffled_human_captions(many: PairSet, held_out: PairSet, tokenizer: CaptionTokenizer) -> None:
    with pytest.raises(TrainingError, match="nothing was learnt that holds for other human pairs"):
        pretrain(
            small_model(tokenizer), tokenizer, shuffled(many), (), PRETRAIN, Execution(), shuffled(held_out)
        )


def test_one_caption_repeated(many: PairSet, held_out: PairSet, tokenizer: CaptionTokenizer) -> None:
    same = PairSet(many.images, [["red above blue"]] * len(many.own), many.image_ids)
    with pytest.raises(TrainingError, match="say the same of most images"):
        finetune_captioner(
            small_model(tokenizer), tokenizer, same, (), CaptionerSettings(steps=5), Execution(), held_out
        )
