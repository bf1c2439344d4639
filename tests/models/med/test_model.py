import pytest
import torch

from capfilt.data_contracts.errors import ModelError
from capfilt.models.med.attention import KeyValue, attend
from capfilt.models.med.config import MedConfig, preset
from capfilt.models.med.model import Med


def test_encoder_and_decoder_share_all_but_self_attention(model: Med) -> None:
    encoder = dict(model.text_encoder.named_parameters(remove_duplicate=False))
    decoder = dict(model.text_decoder.bert.named_parameters(remove_duplicate=False))
    assert encoder.keys() == decoder.keys()
    own = {name for name in encoder if encoder[name] is not decoder[name]}
    assert own == {name for name in encoder if ".attention." in name}
    assert any(name.endswith("attention.output.LayerNorm.weight") for name in own)
    words = model.text_encoder.embeddings.word_embeddings.weight
    assert model.text_decoder.cls.predictions.decoder.weight is words


def test_attention_with_shared_keys_is_attention_with_repeated_keys() -> None:
    query = torch.randn(6, 2, 3, 4)
    kept = KeyValue(torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4))
    repeated = KeyValue(kept.key.repeat_interleave(3, 0), kept.value.repeat_interleave(3, 0))
    reference = torch.nn.functional.scaled_dot_product_attention(query, repeated.key, repeated.value)
    assert torch.allclose(attend(query, kept), reference.transpose(1, 2).reshape(6, 3, 8), atol=1e-6)


def test_the_decoder_does_not_look_ahead_and_its_cache_changes_nothing(model: Med) -> None:
    image = model.text_encoder.image_keys_values(model.encode_images(torch.randn(2, 3, 32, 32)))
    ids = torch.randint(5, 30, (2, 6))
    whole, _ = model.text_decoder(ids, image)
    past = None
    for step in range(6):
        logits, past = model.text_decoder(ids[:, step : step + 1], image, past)
        assert torch.allclose(logits[:, 0], whole[:, step], atol=1e-5)


def test_padding_changes_no_text(model: Med) -> None:
    ids = torch.tensor([[2, 10, 11, 3]])
    padded = torch.tensor([[2, 10, 11, 3, 0, 0]])
    assert torch.allclose(model.embed_texts(ids), model.embed_texts(padded), atol=1e-6)


def test_temperature_is_clamped(model: Med) -> None:
    for value, clamped in ((7.0, 0.5), (-1.0, 0.001)):
        model.temp.data.fill_(value)
        assert model.temperature().item() == pytest.approx(clamped)


def test_base_has_blips_names_and_size() -> None:
    with torch.device("meta"):
        names = dict(Med(preset("base")).named_parameters(remove_duplicate=False))
    for name in (
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.encoder.layers.11.self_attn.qkv.weight",
        "text_encoder.encoder.layer.11.crossattention.self.key.weight",
        "text_decoder.bert.encoder.layer.0.attention.output.dense.weight",
        "text_decoder.cls.predictions.transform.LayerNorm.weight",
        "vision_proj.weight",
        "itm_head.bias",
    ):
        assert name in names


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="multiple"):
        preset("tiny", text_heads=3)
    with pytest.raises(ModelError, match="stem_widths"):
        preset("tiny", patch=8)
    with pytest.raises(ModelError, match="no MED preset"):
        preset("huge")
    with pytest.raises(ModelError, match="does not know"):
        MedConfig.from_dict({"depth": 3})
    assert MedConfig.from_dict(preset("tiny").to_dict()) == preset("tiny")
