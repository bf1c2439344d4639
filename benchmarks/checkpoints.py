"""Random BLIP checkpoints of real sizes, in the Hugging Face layout: what a benchmark needs and no hub gives."""

from pathlib import Path
from typing import Any

import torch
from transformers.models.bert.tokenization_bert import BertTokenizerFast
from transformers.models.blip.configuration_blip import BlipConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

# width, layers, heads, pixels; vision and text alike, as in BLIP base
SIZES = {"tiny": (192, 6, 6, 64), "base": (768, 12, 12, 384)}
WORDS = [f"w{number}" for number in range(30_415)]
VOCABULARY = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY += ["a", "picture", "of", *WORDS]


def make(folder: Path, size: str) -> dict[str, Path]:
    """A filter and a captioner of ``size`` under ``folder``, each with weights of its own; made once."""
    architectures: dict[str, Any] = {
        "filter": BlipForImageTextRetrieval,
        "captioner": BlipForConditionalGeneration,
    }
    made = {role: folder / f"{size}-{role}" for role in architectures}
    for number, (role, architecture) in enumerate(architectures.items()):
        if (made[role] / "preprocessor_config.json").is_file():
            continue
        torch.manual_seed(number)
        model = architecture(_config(size))
        if role == "filter":
            _spread(model, SIZES[size][3])
        model.save_pretrained(made[role])
        ids = {word: number for number, word in enumerate(VOCABULARY)}
        BertTokenizerFast(vocab=ids).save_pretrained(made[role])
        pixels = SIZES[size][3]
        BlipImageProcessorPil(size={"height": pixels, "width": pixels}).save_pretrained(made[role])
    return made


@torch.inference_mode()
def _spread(model: Any, pixels: int) -> None:
    """Scale the ITM head so that probabilities of random pairs lie around one half, from near 0 to near 1.

    As born, all pairs get nearly the same score: nothing could drift, and no decision could flip.
    """
    images, ids = torch.randn(8, 3, pixels, pixels), torch.randint(1000, 30_000, (8, 12))
    logits = model(pixel_values=images, input_ids=ids, attention_mask=torch.ones_like(ids)).itm_score
    margins = logits[:, 1] - logits[:, 0]
    scale = 2.0 / float(margins.std())
    model.itm_head.weight.mul_(scale)
    model.itm_head.bias.copy_(torch.tensor([0.0, -scale * float(margins.mean())]))


def _config(size: str) -> BlipConfig:
    width, layers, heads, pixels = SIZES[size]
    spread = 0.02 * (768 / width) ** 0.5
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return BlipConfig(
        text_config={**shape, "initializer_range": spread},
        vision_config={**shape, "image_size": pixels, "patch_size": 16, "initializer_range": 0.02},
        initializer_range=spread,
    )
