import json
from pathlib import Path

import pytest
import torch

from capfilt.data_contracts.errors import ModelError
from capfilt.models.med.checkpoint import create, load, save
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer


@pytest.fixture
def saved(tmp_path: Path, model: Med, tokenizer: CaptionTokenizer) -> Path:
    save(tmp_path / "filter", model, tokenizer, what="A filter for a test.", metrics={"auc": 0.9})
    return tmp_path / "filter"


def test_round_trip(saved: Path, model: Med, tokenizer: CaptionTokenizer) -> None:
    loaded = load(saved)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    assert loaded.tokenizer.pieces("a red square") == tokenizer.pieces("a red square")
    assert not loaded.model.training
    convolution = loaded.model.vision_model.embeddings.patch_embedding[0].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)  # the faster layout
    card = (saved / "README.md").read_text()
    assert "A filter for a test." in card
    assert "| auc | 0.9 |" in card


def test_a_fresh_model_depends_on_its_seed_only(tokenizer: CaptionTokenizer) -> None:
    first, again, other = (create("tiny", tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(first.itm_head.weight, again.itm_head.weight)
    assert not torch.equal(first.itm_head.weight, other.itm_head.weight)
    assert first.config.enc == tokenizer.enc


def test_bad_directories_are_refused(saved: Path, tokenizer: CaptionTokenizer) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        load(saved / "nowhere")
    config = saved / "config.json"
    good = json.loads(config.read_text())
    for change, message in (
        ({"model_type": "vit"}, "not a MED or BLIP model"),
        ({"text_layers": 3}, "would be random"),
        ({"text_hidden": 32}, "other sizes"),
        ({"vocabulary": 7}, "does not fit its vocabulary"),
        ({"mlp_ratio": 4}, "does not know"),
    ):
        config.write_text(json.dumps({**good, **change}))
        with pytest.raises(ModelError, match=message):
            load(saved)
    config.write_text(json.dumps(good))
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        load(saved)
