"""The text half of MED: one BERT-like stack in three modes (BLIP, section 3.1).

* unimodal encoder: no image, both directions;
* image-grounded encoder: cross-attention to the image, both directions, starts with [ENC];
* image-grounded decoder: cross-attention, causal, starts with [DEC], keeps a cache when decoding.

Encoder and decoder own their self-attention blocks (with output dense and LayerNorm) and share everything
else, which the paper measures to be best (Table 3). Sharing is by module object: both appear in the state
dict under Hugging Face's BLIP names.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from capfilt.models.med.activation import activation
from capfilt.models.med.attention import KeyValue, attend, split_heads
from capfilt.models.med.config import MedConfig


class TextEmbeddings(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.text_width, padding_idx=config.pad)
        self.position_embeddings = nn.Embedding(config.max_positions, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=config.text_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        positions = self.position_embeddings.weight[start : start + ids.shape[1]]
        embedded: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(ids) + positions))
        return embedded


class SelfAttention(nn.Module):
    """Projections to queries, and to keys and values from ``source_width`` wide states (image or text)."""

    def __init__(self, config: MedConfig, source_width: int) -> None:
        super().__init__()
        self.heads, self.dropout = config.text_heads, config.attention_dropout
        self.query = nn.Linear(config.text_width, config.text_width)
        self.key = nn.Linear(source_width, config.text_width)
        self.value = nn.Linear(source_width, config.text_width)

    def keys_values(self, source: Tensor) -> KeyValue:
        return KeyValue(
            split_heads(self.key(source), self.heads), split_heads(self.value(source), self.heads)
        )

    def forward(self, states: Tensor, kept: KeyValue, bias: Tensor | None) -> Tensor:
        query = split_heads(self.query(states), self.heads)
        return attend(query, kept, bias, self.dropout if self.training else 0.0)


class AddAndNorm(nn.Module):
    """Output projection, residual, LayerNorm: BERT's post-norm."""

    def __init__(self, config: MedConfig, source_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(source_width, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=config.text_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(states)) + residual)
        return normed


class Attention(nn.Module):
    def __init__(self, config: MedConfig, source_width: int) -> None:
        super().__init__()
        self.self = SelfAttention(config, source_width)
        self.output = AddAndNorm(config, config.text_width)

    def forward(self, states: Tensor, kept: KeyValue, bias: Tensor | None = None) -> Tensor:
        attended: Tensor = self.output(self.self(states, kept, bias), states)
        return attended


class Intermediate(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.text_width, config.text_hidden)
        self.activation = activation(config.text_act)

    def forward(self, states: Tensor) -> Tensor:
        return self.activation(self.dense(states))


class TextLayer(nn.Module):
    """Self-attention of its own; cross-attention and MLP of its own or those of ``shared``."""

    crossattention: Attention
    intermediate: Intermediate
    output: AddAndNorm

    def __init__(self, config: MedConfig, shared: "TextLayer | None" = None) -> None:
        super().__init__()
        self.attention = Attention(config, config.text_width)
        self.crossattention = shared.crossattention if shared else Attention(config, config.vision_width)
        self.intermediate = shared.intermediate if shared else Intermediate(config)
        self.output = shared.output if shared else AddAndNorm(config, config.text_hidden)

    def forward(
        self, states: Tensor, bias: Tensor | None, image: KeyValue | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        present = self.attention.self.keys_values(states)
        if past is not None:
            present = past.followed_by(present)
        states = self.attention(states, present, bias)
        if image is not None:
            states = self.crossattention(states, image)
        return self.output(self.intermediate(states), states), present


class TextStack(nn.Module):
    recompute = False  # as that of VisionEncoder

    def __init__(self, config: MedConfig, shared: "TextStack | None" = None) -> None:
        super().__init__()
        twins = shared.layers() if shared else [None] * config.text_layers
        self.layer = nn.ModuleList(TextLayer(config, twin) for twin in twins)

    def layers(self) -> list[TextLayer]:
        return cast(list[TextLayer], list(self.layer))


class TextModel(nn.Module):
    """Embeddings and layers; ``shared`` lends everything but the self-attention blocks."""

    embeddings: TextEmbeddings
    encoder: TextStack

    def __init__(self, config: MedConfig, shared: "TextModel | None" = None) -> None:
        super().__init__()
        self.embeddings = shared.embeddings if shared else TextEmbeddings(config)
        self.encoder = TextStack(config, shared.encoder if shared else None)

    def image_keys_values(self, image_states: Tensor) -> list[KeyValue]:
        """Cross-attention keys and values of (n, positions, width) image states, one per layer.

        Computed once per image: encoder and decoder share them, and so do all texts of an image.
        """
        return [layer.crossattention.self.keys_values(image_states) for layer in self.encoder.layers()]

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        image: list[KeyValue] | None = None,
        past: list[KeyValue] | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, list[KeyValue]]:
        """States (rows, length, width) of ``ids`` (rows, length) int64, and the cache that continues them.

        ``mask`` (rows, length) is True at tokens to look at. Causal rows padded on the right need no mask: no
        token looks at what follows it. With ``past``, ``ids`` continues it by one token a row.
        """
        start = past[0].key.shape[2] if past else 0
        bias = None
        if causal and ids.shape[1] > 1:
            bias = torch.full((ids.shape[1],) * 2, -torch.inf, device=ids.device).triu(1)
        elif mask is not None:
            bias = torch.zeros(mask.shape, device=ids.device).masked_fill(~mask, -1e9)[:, None, None, :]
        states = self.embeddings(ids, start)
        presents: list[KeyValue] = []
        for number, layer in enumerate(self.encoder.layer):
            given = (states, bias, image[number] if image else None, past[number] if past else None)
            if self.encoder.recompute and self.training:
                states, present = checkpoint(layer, *given, use_reentrant=False)
            else:
                states, present = layer(*given)
            presents.append(present)
        return states, presents


class Transform(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.text_width, config.text_width)
        self.LayerNorm = nn.LayerNorm(config.text_width, eps=config.text_eps)
        self.activation = activation(config.text_act)

    def forward(self, states: Tensor) -> Tensor:
        transformed: Tensor = self.LayerNorm(self.activation(self.dense(states)))
        return transformed


class Predictions(nn.Module):
    """The LM head; its output matrix is the word embedding if the config ties them."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.decoder = nn.Linear(config.text_width, config.vocabulary)

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(states))
        return logits


class LmHead(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)


class TextDecoder(nn.Module):
    """The causal mode with its LM head, under the names of ``BlipForConditionalGeneration.text_decoder``.

    ``encoder`` lends everything but the self-attention blocks; without one, all is the decoder's own.
    """

    def __init__(self, config: MedConfig, encoder: TextModel | None = None) -> None:
        super().__init__()
        self.bert = TextModel(config, encoder)
        self.cls = LmHead(config)
        self.tied = config.tied
        self.tie()

    def tie(self) -> None:
        """Make the LM head's matrix the word embedding, if the config says so; its bias is always one."""
        head = self.cls.predictions
        if self.tied:
            head.decoder.weight = self.bert.embeddings.word_embeddings.weight
        head.decoder.bias = head.bias

    def forward(
        self, ids: Tensor, image: list[KeyValue], past: list[KeyValue] | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """Next-token logits (rows, length, vocabulary), float32, and the cache."""
        states, presents = self.bert(ids, image=image, past=past, causal=True)
        return self.cls.predictions(states), presents
