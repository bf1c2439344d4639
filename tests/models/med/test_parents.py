"""A MED's encoders right after the start compute what the ViT and the BERT they come from compute."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.modeling_vit import ViTModel

from capfilt.data_contracts.errors import ModelError
from capfilt.models.med.parents import descend
from tests.blip_checkpoint import VOCABULARY, make_tokenizer

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "layer_norm_eps": 1e-3}
WORDS = VOCABULARY[:-2]


@pytest.fixture
def parents(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    vit = ViTModel(ViTConfig(hidden_size=32, image_size=32, patch_size=8, **SHAPE), add_pooling_layer=False)
    bert = BertModel(BertConfig(vocab_size=len(WORDS), hidden_size=24, max_position_embeddings=40, **SHAPE))
    for model in (vit, bert):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    vit.save_pretrained(tmp_path / "vit")
    bert.save_pretrained(tmp_path / "bert")
    make_tokenizer(tmp_path / "bert", WORDS)
    return tmp_path / "vit", tmp_path / "bert"


def test_the_encoders_are_the_parents(parents: tuple[Path, Path]) -> None:
    model, tokenizer = descend(*parents, seed=0)
    model.eval()
    assert (tokenizer.dec, tokenizer.enc) == (len(WORDS), len(WORDS) + 1)
    assert model.config.vocabulary == len(WORDS) + 2
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[2, 9, 10, 11, 3], [2, 12, 3, 0, 0]])
    with torch.inference_mode():
        seen = ViTModel.from_pretrained(parents[0]).eval()(pixels).last_hidden_state
        assert torch.allclose(model.encode_images(pixels), seen, atol=1e-5)
        mask = (ids != 0).long()
        read = BertModel.from_pretrained(parents[1]).eval()(ids, attention_mask=mask).last_hidden_state
        assert torch.allclose(model.text_encoder(ids, ids != 0)[0][:, 0], read[:, 0], atol=1e-5)
    encoder, decoder = model.text_encoder.encoder.layers(), model.text_decoder.bert.encoder.layers()
    for one, two in zip(encoder, decoder, strict=True):
        assert torch.equal(one.attention.self.query.weight, two.attention.self.query.weight)
        assert one.attention is not two.attention
        assert one.crossattention is two.crossattention


def test_the_seed_decides_what_they_have_not(parents: tuple[Path, Path]) -> None:
    first, again, other = (descend(*parents, seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(first.itm_head.weight, again.itm_head.weight)
    assert not torch.equal(first.itm_head.weight, other.itm_head.weight)


def test_bad_parents_are_refused(parents: tuple[Path, Path]) -> None:
    vit, bert = parents
    with pytest.raises(ModelError, match="is not a vit model"):
        descend(bert, bert, seed=0)
    weights = load_file(vit / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, vit / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights") as caught:
        descend(vit, bert, seed=0)
    assert "layer.1.output.dense.weight" in caught.value.evidence
