"""Parity at BLIP's base size: one short look at each role, in float32 (real sizes find what tiny ones hide)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers.models.blip.configuration_blip import BlipConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from capfilt.models.protocols import Decoding, Inference
from tests.blip_checkpoint import make_tokenizer
from tests.models.engine.looks import names, open_captioner, open_matcher, pictures, pixels_of

PIXELS = 96  # instead of 384: 37 image tokens keep it short
WORDS = ["[PAD]", *(f"x{number}" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["a", "picture", "of", *(f"w{number}" for number in range(30_415))]


def base(directory: Path, architecture: type) -> object:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 12}
    vision = {**heads, "image_size": PIXELS, "initializer_range": 0.02, "layer_norm_eps": 1e-6}
    model = architecture(BlipConfig(text_config=heads, vision_config=vision)).eval()
    model.save_pretrained(directory)
    make_tokenizer(directory, WORDS)
    BlipImageProcessorPil(size={"height": PIXELS, "width": PIXELS}).save_pretrained(directory)
    return model


def test_scores(tmp_path: Path) -> None:
    theirs: BlipForImageTextRetrieval = base(tmp_path, BlipForImageTextRetrieval)  # type: ignore[assignment]
    matcher, images = open_matcher(tmp_path), pictures(2)
    text = "a w5 w77 w900 picture of w30000"
    ids = torch.tensor(matcher.tokenizer.rows([text], 35))
    inputs = {
        "pixel_values": pixels_of(tmp_path, images),
        "input_ids": ids.expand(2, -1),
        "attention_mask": torch.ones(2, ids.shape[1], dtype=torch.int64),
    }
    with torch.inference_mode():
        itm = theirs(**inputs).itm_score.double().softmax(1)[:, 1]
        itc = theirs(**inputs, use_itm_head=False).itm_score.diagonal()
    ours = matcher.match(images, [[text], [text]])
    assert np.allclose([own[0].itm for own in ours], itm.numpy(), atol=1e-5)
    assert np.allclose([own[0].itc for own in ours], itc.numpy(), atol=1e-5)


def test_captions(tmp_path: Path) -> None:
    theirs: BlipForConditionalGeneration = base(tmp_path, BlipForConditionalGeneration)  # type: ignore[assignment]
    captioner, images = open_captioner(tmp_path), pictures(2)
    ids = torch.tensor([[captioner.config.dec, *captioner.tokenizer.pieces("a picture of"), 102]])
    for strategy, beams in (("greedy", 1), ("beam", 3)):
        out = theirs.generate(
            pixels_of(tmp_path, images),
            ids.expand(2, -1).clone(),
            max_new_tokens=5,
            min_new_tokens=2,
            num_beams=beams,
        )
        decoding = Decoding(strategy, min_tokens=2, max_tokens=5)  # type: ignore[arg-type]
        expected = [captioner.tokenizer.decode(row[4:].tolist()) for row in out]
        assert [own[0].text for own in captioner.caption(images, names(2), decoding)] == expected
    del theirs
    half, decoding = open_captioner(tmp_path, inference=Inference("bf16")), Decoding(max_tokens=6)
    threes = half.caption(pictures(5), names(5), replace(decoding, per_image=3))
    alone = half.caption(pictures(5)[3:4], names(5)[3:4], decoding)
    assert threes[3][:1] == alone[0]
