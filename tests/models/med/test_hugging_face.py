"""Both directions against transformers: what it wrote, we compute alike; what we write, it computes alike."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from capfilt.data_contracts.errors import ModelError
from capfilt.models.med.checkpoint import load, save, save_blip
from capfilt.models.med.config import MedConfig, preset
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from tests.blip_checkpoint import VOCABULARY, make_blip, make_tokenizer
from tests.models.conftest import small_config

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[2, 9, 10, 11, 3, 0], [2, 12, 13, 14, 15, 3]])


def compare_filter(model: Med, directory: Path) -> None:
    theirs = BlipForImageTextRetrieval.from_pretrained(directory).eval()
    inputs: dict[str, Tensor] = {
        "input_ids": IDS,
        "attention_mask": (IDS != 0).long(),
        "pixel_values": PIXELS,
    }
    with torch.inference_mode():
        expected = theirs(**inputs).itm_score
        cosine = theirs(**inputs, use_itm_head=False).itm_score
        states = model.encode_images(PIXELS)
        image = model.text_encoder.image_keys_values(states)
        assert torch.allclose(model.match(IDS, image), expected, atol=1e-5)
        ours = model.embed_images(states) @ model.embed_texts(IDS).T
        assert torch.allclose(ours, cosine, atol=1e-5)
    assert expected.std() > 1e-3  # or the comparison would prove nothing


def compare_captioner(model: Med, directory: Path) -> None:
    theirs = BlipForConditionalGeneration.from_pretrained(directory).eval()
    with torch.inference_mode():
        expected = theirs(pixel_values=PIXELS, input_ids=IDS[1:].expand(2, -1)).logits
        image = model.text_decoder.bert.image_keys_values(model.encode_images(PIXELS))
        logits, _ = model.text_decoder(IDS[1:].expand(2, -1), image)
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"num_attention_heads": 4, "layer_norm_eps": 1e-3, "hidden_act": "relu", "intermediate_size": 48},
        {"tie_word_embeddings": False, "max_position_embeddings": 20, "hidden_act": "gelu_new"},
    ],
)
def test_what_transformers_writes(tmp_path: Path, text: dict[str, Any]) -> None:
    for role, compare in (("filter", compare_filter), ("captioner", compare_captioner)):
        directory = make_blip(tmp_path / role, role, **text)  # type: ignore[arg-type]
        loaded = load(directory)
        assert loaded.model.config.roles == (role,)
        compare(loaded.model, directory)


def test_every_field_of_a_config_is_read(tmp_path: Path) -> None:
    odd = {
        "hidden_dropout_prob": 0.11,
        "attention_probs_dropout_prob": 0.12,
        "label_smoothing": 0.13,
        "layer_norm_eps": 1e-4,
        "num_attention_heads": 8,
        "intermediate_size": 40,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 21,
    }
    directory = make_blip(tmp_path / "model", "filter", **odd)
    values = json.loads((directory / "config.json").read_text())
    values["vision_config"] |= {"attention_dropout": 0.14, "layer_norm_eps": 1e-2, "hidden_act": "silu"}
    (directory / "config.json").write_text(json.dumps(values))
    config = load(directory).model.config
    assert (config.dropout, config.attention_dropout, config.label_smoothing) == (0.11, 0.12, 0.13)
    assert (config.text_eps, config.text_heads, config.text_hidden) == (1e-4, 8, 40)
    assert (config.text_act, config.max_positions, config.max_tokens) == ("quick_gelu", 21, 21)
    assert (config.vision_dropout, config.vision_eps, config.vision_act) == (0.14, 1e-2, "silu")
    assert (config.image_size, config.patch, config.projection) == (32, 8, 16)
    assert (config.dec, config.enc, config.sep, config.pad) == (41, 42, 3, 0)
    assert (config.itm_token, config.roles, config.tied) == ("cls", ("filter",), True)


def test_dropouts_reach_the_modules(tokenizer: CaptionTokenizer) -> None:
    torch.manual_seed(0)
    quiet = small_config(tokenizer)
    for change in ({"dropout": 0.5}, {"attention_dropout": 0.5}, {"vision_dropout": 0.5}):
        model = Med(replace(quiet, **change)).train()  # type: ignore[arg-type]
        states = model.encode_images(PIXELS)
        image = model.text_encoder.image_keys_values(states)
        first, second = model.match(IDS, image), model.match(IDS, image)
        again = model.encode_images(PIXELS)
        assert torch.equal(states, again) == ("vision_dropout" not in change)
        assert torch.equal(first, second) == ("vision_dropout" in change)


@pytest.fixture
def patched(tokenizer: CaptionTokenizer) -> Med:
    torch.manual_seed(1)
    sizes = {"stem": "patch", "stem_widths": (), "patch": 8, "itm_token": "cls", "text_act": "gelu_new"}
    model = Med(replace(small_config(tokenizer), **sizes, max_tokens=17)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_what_we_write(tmp_path: Path, patched: Med, tokenizer: CaptionTokenizer) -> None:
    save(tmp_path / "med", patched, tokenizer, what="For a test.", metrics={"auc": 0.9})
    compare_filter(patched, tmp_path / "med")
    compare_captioner(patched, tmp_path / "med")
    assert "For a test." in (tmp_path / "med" / "README.md").read_text()
    loaded = load(tmp_path / "med").model
    assert loaded.config == patched.config
    for name, value in patched.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    shared = loaded.text_decoder.bert.encoder.layers()[0]
    assert shared.crossattention is loaded.text_encoder.encoder.layers()[0].crossattention
    words = loaded.text_encoder.embeddings.word_embeddings.weight
    assert loaded.text_decoder.cls.predictions.decoder.weight is words


def test_transformers_prepares_images_and_texts_as_we_do(
    tmp_path: Path, patched: Med, tokenizer: CaptionTokenizer
) -> None:
    from transformers import AutoProcessor

    from capfilt.models.images.prepare import prepare
    from tests.models.engine.looks import pictures

    save(tmp_path / "med", patched, tokenizer, what="For a test.")
    processor = AutoProcessor.from_pretrained(tmp_path / "med")
    theirs = processor(images=pictures(2), text=["a red square"] * 2, return_tensors="pt")
    assert torch.allclose(theirs["pixel_values"], prepare(pictures(2), 32), atol=1e-5)
    assert theirs["input_ids"].tolist() == tokenizer.rows(["a red square"] * 2, 40)


def test_one_checkpoint_with_two_halves_that_share_nothing(
    blip_filter: Path, blip_captioner: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(blip_filter, tmp_path / "both"))
    weights = {**load_file(blip_captioner / "model.safetensors"), **load_file(both / "model.safetensors")}
    save_file(weights, both / "model.safetensors", metadata={"format": "pt"})
    loaded = load(both)
    assert not loaded.model.config.shared
    compare_filter(loaded.model, both)
    compare_captioner(loaded.model, both)
    save(tmp_path / "again", loaded.model, loaded.tokenizer, what="For a test.")
    compare_captioner(load(tmp_path / "again").model, both)


def test_sharded_weights_and_half_precision(blip_filter: Path, tmp_path: Path) -> None:
    theirs = BlipForImageTextRetrieval.from_pretrained(blip_filter)
    shutil.copytree(blip_filter, tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    compare_filter(load(tmp_path / "shards").model, blip_filter)
    theirs.half().save_pretrained(tmp_path / "shards", max_shard_size="1GB")
    (tmp_path / "shards" / "model.safetensors.index.json").unlink(missing_ok=True)
    assert {value.dtype for value in load(tmp_path / "shards").model.parameters()} == {torch.float32}


def test_another_image_size_interpolates_as_transformers_does(blip_filter: Path) -> None:
    theirs = BlipForImageTextRetrieval.from_pretrained(blip_filter).eval()
    pixels = torch.randn(2, 3, 48, 48)
    loaded = load(blip_filter, image_size=48)
    assert loaded.model.config.image_size == 48
    with torch.inference_mode():
        expected = theirs.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        assert torch.allclose(loaded.model.encode_images(pixels), expected, atol=1e-5)
    with pytest.raises(ModelError, match="whole number of patches"):
        load(blip_filter, image_size=50)


def test_a_convolutional_stem_is_not_blip(tmp_path: Path, model: Med, tokenizer: CaptionTokenizer) -> None:
    with pytest.raises(ModelError, match="cannot be saved as BLIP") as caught:
        save_blip(tmp_path / "med", model, tokenizer, what="For a test.")
    assert "one strided convolution" in caught.value.evidence
    assert not (tmp_path / "med").exists()


def test_no_enc_token(tmp_path: Path) -> None:
    directory = make_blip(tmp_path / "model", "filter", bos_token_id=len(VOCABULARY) - 1)
    make_tokenizer(directory, VOCABULARY[:-2])
    config = load(directory).model.config
    assert config.enc is None
    with pytest.raises(ModelError, match=r"no \[ENC\] token"):
        replace(config, itm_token="enc")


@pytest.mark.parametrize(("key", "value"), [("image_size", [32, 64]), ("patch_size", [8, 4])])
def test_images_that_are_not_square(tmp_path: Path, key: str, value: list[int]) -> None:
    directory = make_blip(tmp_path / "model", "filter")
    values = json.loads((directory / "config.json").read_text())
    values["vision_config"][key] = value
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not square"):
        load(directory)


def test_an_unknown_activation(tmp_path: Path) -> None:
    directory = make_blip(tmp_path / "model", "filter", hidden_act="mish")
    with pytest.raises(ModelError, match="'mish' is an activation that capfilt does not know"):
        load(directory)


def test_a_model_of_one_role_refuses_the_other(blip_filter: Path, blip_captioner: Path) -> None:
    load(blip_filter).model.require("filter")
    with pytest.raises(ModelError, match="cannot serve as the captioner"):
        load(blip_filter).model.require("filter", "captioner")
    with pytest.raises(ModelError, match="cannot serve as the filter"):
        load(blip_captioner).model.require("filter")


def test_large_is_blips(tmp_path: Path) -> None:
    with torch.device("meta"):
        sizes = {name: tuple(value.shape) for name, value in Med(preset("large")).named_parameters()}
    assert sizes["vision_model.encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    assert sizes["text_encoder.encoder.layer.11.crossattention.self.key.weight"] == (768, 1024)
    assert MedConfig.from_dict(json.loads(json.dumps(preset("large").to_dict()))) == preset("large")
