"""MED in the layout of Hugging Face's BLIP: configs and tensor names, both ways (arXiv 2201.12086).

``BlipForImageTextRetrieval`` and ``BlipForConditionalGeneration`` open a directory written here, each taking
its own half; a directory written by either, or one that holds both halves, is read here. What MED records
beside BLIP's own keys stands under ``capfilt`` in ``config.json``, which transformers ignores.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.blip.configuration_blip import BlipConfig

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import Checkpoint, Role, brief
from capfilt.models.med.config import MedConfig
from capfilt.models.med.tokenizer import CaptionTokenizer

OWN = "capfilt"
_RECORDED = ("max_tokens", "itm_token")

# What BLIP cuts judged texts at, in training and in judging; later positions were never finetuned.
_RELEASED_MAX_TOKENS = 35

_TEXT = {
    "vocab_size": "vocabulary",
    "hidden_size": "text_width",
    "intermediate_size": "text_hidden",
    "num_hidden_layers": "text_layers",
    "num_attention_heads": "text_heads",
    "max_position_embeddings": "max_positions",
    "hidden_act": "text_act",
    "layer_norm_eps": "text_eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "bos_token_id": "dec",
    "sep_token_id": "sep",
    "pad_token_id": "pad",
    "label_smoothing": "label_smoothing",
}
_VISION = {
    "hidden_size": "vision_width",
    "intermediate_size": "vision_hidden",
    "num_hidden_layers": "vision_layers",
    "num_attention_heads": "vision_heads",
    "image_size": "image_size",
    "patch_size": "patch",
    "hidden_act": "vision_act",
    "layer_norm_eps": "vision_eps",
    "attention_dropout": "vision_dropout",
}
# A BERT with a pooler, a CLIP-like scale, counters: BLIP computes nothing with them.
_UNUSED = ("position_ids", ".pooler.dense.weight", ".pooler.dense.bias", "logit_scale")


def read_config(
    checkpoint: Checkpoint,
    tokenizer: CaptionTokenizer,
    tensors: Mapping[str, Tensor],
    roles: tuple[Role, ...],
) -> MedConfig:
    """The sizes in a BLIP directory. Keys that are absent have transformers' own defaults.

    Raises :class:`ModelError` for a config that transformers would refuse, or images or patches that are not
    square.
    """
    try:
        config = BlipConfig.from_dict(checkpoint.config)
    except Exception as error:  # its validation raises a kind of its own
        raise ModelError(
            what=f"cannot load {checkpoint.where}: transformers refuses its config.json",
            evidence=brief(error, 400),
            remedy="put the config.json that belongs to these weights beside them",
        ) from error
    text: Any = config.text_config
    vision: Any = config.vision_config
    own = {ours: getattr(text, theirs) for theirs, ours in _TEXT.items()}
    own |= {ours: getattr(vision, theirs) for theirs, ours in _VISION.items()}
    own |= {name: _side(checkpoint, name, own[name]) for name in ("image_size", "patch")}
    enc = (
        tokenizer.enc if tokenizer.enc is not None else own["dec"] + 1
    )  # BLIP appends [DEC], [ENC] in this order
    recorded = checkpoint.config.get(OWN, {})
    return MedConfig(
        **own,
        projection=config.image_text_hidden_size,
        cls=tokenizer.cls,
        enc=enc if enc < own["vocabulary"] else None,
        itm_token=recorded.get("itm_token", "cls"),
        max_tokens=recorded.get("max_tokens", min(_RELEASED_MAX_TOKENS, own["max_positions"])),
        tied=bool(config.tie_word_embeddings or text.tie_word_embeddings),  # as transformers decides
        shared=_is_shared(tensors),
        roles=roles,
    )


def write_config(config: MedConfig) -> dict[str, Any]:
    """The inverse of :func:`read_config`. Raises :class:`ModelError` for a convolutional stem."""
    if config.stem != "patch":
        raise ModelError(
            what=f"a MED with a {config.stem} stem cannot be saved as BLIP",
            evidence="BLIP cuts images with one strided convolution; transformers has no module for this stem",
            remedy="save it in capfilt's own layout, or train a preset with the patch stem (base, large)",
        )
    values: dict[str, Any] = {
        "text_config": {theirs: getattr(config, ours) for theirs, ours in _TEXT.items()}
        | {"tie_word_embeddings": config.tied},
        "vision_config": {theirs: getattr(config, ours) for theirs, ours in _VISION.items()}
        | {"initializer_range": 0.02},  # transformers' 1e-10 is for loading only: nothing learns from it
        "image_text_hidden_size": config.projection,
        "tie_word_embeddings": config.tied,
    }
    architectures = {"filter": "BlipForImageTextRetrieval", "captioner": "BlipForConditionalGeneration"}
    return {
        **BlipConfig(**values).to_dict(),
        "architectures": [architectures[role] for role in config.roles],
        OWN: {name: getattr(config, name) for name in _RECORDED},
    }


def select_tensors(tensors: Mapping[str, Tensor], config: MedConfig) -> dict[str, Tensor]:
    """Those of a BLIP directory that MED has; a tied LM head is stored with the word embeddings."""
    head = "text_decoder.cls.predictions.decoder."
    kept = {name: value for name, value in tensors.items() if not name.endswith(_UNUSED)}
    if config.tied:
        kept.pop(head + "weight", None)
    bias = kept.pop(head + "bias", None)  # the one that transformers adds; the other is its twin if tied
    if bias is not None:
        kept["text_decoder.cls.predictions.bias"] = bias
    return kept


def write_tensors(tensors: Mapping[str, Tensor], config: MedConfig) -> dict[str, Tensor]:
    """Both halves in full: each class of transformers reads its own, so what they share is stored twice."""
    head = "text_decoder.cls.predictions.decoder."
    tied = (head + "weight", head + "bias") if config.tied else ()
    return {name: value.clone() for name, value in tensors.items() if name not in tied}


def _side(checkpoint: Checkpoint, name: str, value: Any) -> int:
    sides = {*value} if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ModelError(
            what=f"{checkpoint.where} is for images or patches that are not square",
            evidence=f"{name} {value} in config.json",
            remedy="use a checkpoint with square ones, as all of BLIP's are",
        )
    return int(sides.pop())


def _is_shared(tensors: Mapping[str, Tensor]) -> bool:
    """Whether encoder and decoder in one checkpoint are equal outside self-attention."""
    pairs = (
        (value, tensors[other])
        for name, value in tensors.items()
        if name.startswith("text_encoder.")
        and ".attention." not in name
        and (other := name.replace("text_encoder.", "text_decoder.bert.", 1)) in tensors
    )
    return all(torch.equal(one, two) for one, two in pairs)
