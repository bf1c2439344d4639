"""A fresh MED that starts from a plain ViT and a plain BERT, as BLIP's pretraining does (section 4.1).

The image encoder, the embeddings, both self-attention towers and the MLPs come from the parents; the
cross-attention, the projections, the heads and the embeddings of [DEC] and [ENC] are new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import Checkpoint, locate_family
from capfilt.models.med.checkpoint import Checkpoint as Made
from capfilt.models.med.checkpoint import read_tensors
from capfilt.models.med.config import MedConfig
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer

_VISION = {
    "hidden_size": "vision_width",
    "num_hidden_layers": "vision_layers",
    "num_attention_heads": "vision_heads",
    "intermediate_size": "vision_hidden",
    "layer_norm_eps": "vision_eps",
    "hidden_act": "vision_act",
    "attention_probs_dropout_prob": "vision_dropout",
    "image_size": "image_size",
    "patch_size": "patch",
}
_TEXT = {
    "hidden_size": "text_width",
    "num_hidden_layers": "text_layers",
    "num_attention_heads": "text_heads",
    "intermediate_size": "text_hidden",
    "layer_norm_eps": "text_eps",
    "hidden_act": "text_act",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "max_position_embeddings": "max_positions",
}
_VISION_NAMES = {
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "attention.output.dense": "self_attn.projection",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def descend(vision: Path, text: Path, seed: int) -> Made:
    """A model of both roles from a ``ViTModel`` and a ``BertModel`` directory, with BERT's tokenizer and [DEC],
    [ENC]; the same seed gives the same weights.

    Raises :class:`ModelError` for directories of other families, or with weights missing.
    """
    vit, bert = locate_family(str(vision), "vit"), locate_family(str(text), "bert")
    tokenizer = CaptionTokenizer.load(text).with_dec_and_enc()
    sizes = {ours: vit.config[theirs] for theirs, ours in _VISION.items()}
    sizes |= {ours: bert.config[theirs] for theirs, ours in _TEXT.items()}
    ids = {token: getattr(tokenizer, token) for token in ("pad", "cls", "sep", "dec", "enc")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Med(MedConfig(**sizes, **ids, vocabulary=tokenizer.size))
    inherited = _vision(_tensors(vit, "vit."), sizes["vision_layers"])
    inherited |= _text(_tensors(bert, "bert."), model)
    own = model.state_dict()
    wrong = [name for name, value in inherited.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise ModelError(
            what="the parents' weights have other sizes than their config.json says",
            evidence=f"{vision}, {text}: {len(wrong)} tensors, such as {wrong[0]}",
            remedy="give directories that ViTModel and BertModel open",
        )
    model.load_state_dict(inherited, strict=False)
    return Made(model, tokenizer)


def _tensors(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """Without the prefix that a model with a head has, and without head and pooler."""
    tensors = {name.removeprefix(prefix): value for name, value in read_tensors(checkpoint).items()}
    return {
        name: value
        for name, value in tensors.items()
        if not name.startswith(("pooler.", "cls.", "classifier."))
    }


def _take(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ModelError(
            what="a parent of the model lacks weights",
            evidence=f"there is no {name}",
            remedy="give directories that ViTModel and BertModel wrote",
        )
    return tensors[name]


def _vision(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    taken: dict[str, Any] = {
        "embeddings.class_embedding": _take(tensors, "embeddings.cls_token"),
        "embeddings.position_embedding": _take(tensors, "embeddings.position_embeddings"),
    }
    for kind in ("weight", "bias"):
        taken[f"embeddings.patch_embedding.{kind}"] = _take(
            tensors, f"embeddings.patch_embeddings.projection.{kind}"
        )
        taken[f"post_layernorm.{kind}"] = _take(tensors, f"layernorm.{kind}")
        for layer in range(layers):
            theirs, ours = f"encoder.layer.{layer}.", f"encoder.layers.{layer}."
            parts = [
                _take(tensors, f"{theirs}attention.attention.{part}.{kind}")
                for part in ("query", "key", "value")
            ]
            taken[f"{ours}self_attn.qkv.{kind}"] = torch.cat(parts)
            for name, mine in _VISION_NAMES.items():
                taken[f"{ours}{mine}.{kind}"] = _take(tensors, f"{theirs}{name}.{kind}")
    return {f"vision_model.{name}": value for name, value in taken.items()}


def _text(tensors: Mapping[str, Tensor], model: Med) -> dict[str, Tensor]:
    """BERT's segment embedding, always the first here, goes into the positions: the encoder then is BERT."""
    words = model.text_encoder.embeddings.word_embeddings.weight.detach().clone()
    known = _take(tensors, "embeddings.word_embeddings.weight")[: len(words)]
    words[: len(known)] = known  # [DEC] and [ENC], at the end, keep their random start
    segment = _take(tensors, "embeddings.token_type_embeddings.weight")[0]
    taken = {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": _take(tensors, "embeddings.position_embeddings.weight")
        + segment,
    }
    taken |= {
        name: value
        for name, value in tensors.items()
        if name.startswith(("encoder.", "embeddings.LayerNorm.")) and "position_ids" not in name
    }
    towers = ("text_encoder.", "text_decoder.bert.")
    return {tower + name: value for tower in towers for name, value in taken.items()}
