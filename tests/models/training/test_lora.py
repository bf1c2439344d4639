"""Training less than everything."""

import copy
from dataclasses import replace

import pytest
import torch

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.training.jobs import finetune_filter, pretrain
from capfilt.models.training.loop import Execution
from capfilt.models.training.lora import trainable
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import FilterSettings, PretrainSettings

SETTINGS = FilterSettings(steps=4, batch=8, warmup=1)


def changed(before: Med, after: Med) -> set[str]:
    """The names of the parameters that differ."""
    new = dict(after.named_parameters())
    return {name for name, value in before.named_parameters() if not torch.equal(value, new[name])}


def test_frozen_parts_stay_and_the_rest_learns(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    before = copy.deepcopy(model)
    finetune_filter(model, tokenizer, pairs, (), replace(SETTINGS, freeze=("vision",)), Execution())
    moved = changed(before, model)
    assert moved
    assert not {name for name in moved if name.startswith("vision_model")}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_lora_leaves_a_plain_model_whose_projections_have_moved_by_low_rank(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    before = copy.deepcopy(model)
    settings = PretrainSettings(steps=4, batch=8, warmup=1, lora=2, itm_latest=0.2)
    pretrain(model, tokenizer, pairs, (), settings, Execution())
    assert model.state_dict().keys() == before.state_dict().keys()
    name = "text_encoder.encoder.layer.0.intermediate.dense.weight"
    difference = model.state_dict()[name] - before.state_dict()[name]
    assert 0 < torch.linalg.matrix_rank(difference, tol=1e-6) <= 2
    moved = changed(before, model)
    assert {"itm_head.weight", "temp"} <= moved
    assert not {name for name in moved if "LayerNorm" in name}
    # encoder and decoder still share what they shared
    encoder, decoder = model.text_encoder.encoder.layers()[0], model.text_decoder.bert.encoder.layers()[0]
    assert encoder.crossattention is decoder.crossattention
    again = copy.deepcopy(before)
    pretrain(again, tokenizer, pairs, (), settings, Execution())
    assert not changed(model, again)


def test_recomputed_activations_change_nothing(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    settings = PretrainSettings(steps=3, batch=8, warmup=1, itm_latest=0.2)
    other = copy.deepcopy(model)
    pretrain(model, tokenizer, pairs, (), settings, Execution())
    pretrain(other, tokenizer, pairs, (), replace(settings, recompute=True), Execution())
    for name, value in model.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=1e-6), name


def test_nothing_left_to_train(model: Med) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing is left to train"), trainable(model, SETTINGS):
        pass
