"""The rows of a running decoder: caches laid out once, rows that leave and enter at any step.

An *image slot* holds one image's states; up to ``width`` captions (or beams) of that image are rows that look
at them. Live rows and slots stand without gaps: when one leaves, the last one takes its place. A row computes
the same bits wherever it stands and whoever is beside it: every product has its rows, attention always spans
the whole cache, and the queries of an image always stand ``width`` together.

Rows look at image states directly (:meth:`~capfilt.models.engine.text_stack.PackedTextLayer.cross_attend`): an
image's keys and values for all layers are 24 times as large as its states at base size, every step would read them
all, and to project them costs more than the few tokens of a caption save.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from capfilt.models.engine.attention import plain
from capfilt.models.engine.linear import Arithmetic
from capfilt.models.engine.text_stack import PackedTextStack
from capfilt.models.med.config import MedConfig
from capfilt.models.med.text import TextDecoder


class Writer:
    """The decoder tower with its LM head."""

    def __init__(self, decoder: TextDecoder, config: MedConfig, arithmetic: Arithmetic) -> None:
        self.stack, self.config, self.arithmetic = (
            PackedTextStack(decoder.bert, config, arithmetic),
            config,
            arithmetic,
        )
        head = decoder.cls.predictions
        self.transform = arithmetic.linear(head.transform.dense, act=config.text_act, exact=True)
        self.norm = arithmetic.norm(head.transform.LayerNorm)
        self.vocabulary = arithmetic.linear(head.decoder, exact=True)

    def logits(self, states: Tensor) -> Tensor:
        """(rows, vocabulary), float32."""
        return self.vocabulary(self.norm(self.transform(states))).float()


class KVCache:
    """``images`` slots of ``width`` rows each, for texts of at most ``room`` tokens."""

    def __init__(self, writer: Writer, images: int, width: int, room: int) -> None:
        config, arithmetic = writer.config, writer.arithmetic
        self.writer, self.width, self.room = writer, width, room
        heads, size = config.text_heads, config.text_width // config.text_heads
        self.stride = max(width, arithmetic.fewest)
        layers = len(writer.stack.layers)

        dtype, device = arithmetic.dtype, arithmetic.device
        self.seen = torch.zeros(images, config.patches + 1, config.vision_width, dtype=dtype, device=device)
        self.said = torch.zeros(layers, 2, images * width, heads, room, size, dtype=dtype, device=device)
        self.slot, self.place, self.length = (
            torch.zeros(images * width, dtype=torch.int64) for _ in range(3)
        )
        self.steps = torch.arange(room, device=device)
        self.images = self.rows = 0

    def admit(self, states: Tensor, prompt: Sequence[int]) -> Tensor:
        """New images with states (n, positions, width), each with ``width`` rows that begin with ``prompt``.

        Returns the next-token logits of each image, (n, vocabulary), the same for its rows.
        """
        stack, heads = self.writer.stack, self.writer.config.text_heads
        n, length, device = len(states), len(prompt), states.device
        slots, rows = slice(self.images, self.images + n), slice(self.rows, self.rows + n * self.width)
        numbers = torch.arange(n * self.width)
        self.slot[rows], self.place[rows] = self.images + numbers // self.width, numbers % self.width
        self.length[rows] = length
        self.images, self.rows = slots.stop, rows.stop

        padded = max(length, self.writer.arithmetic.fewest)  # the pads come last: no token looks at them
        ids = torch.tensor([*prompt, *[0] * (padded - length)], device=device).repeat(n)
        words = stack.embed(ids, torch.arange(padded, device=device).repeat(n))
        causal = torch.full((padded, padded), -torch.inf, dtype=words.dtype, device=device).triu(1)
        self.seen[slots] = states
        for layer, said in zip(stack.layers, self.said, strict=True):
            parts = layer.qkv(words).view(n, padded, 3, heads, -1).permute(2, 0, 3, 1, 4)
            for kept, part in zip(said, parts[1:], strict=True):
                kept[rows, :, :length] = part[:, :, :length].repeat_interleave(self.width, 0)
            context = plain(parts[0], parts[1], parts[2], causal)
            words = layer.after_self(context.transpose(1, 2).reshape(len(words), -1), words)
            attended = layer.cross_attend(layer.cross_query(words).view(n, padded, -1), states)
            words = layer.mix(layer.after_cross(attended.flatten(0, 1), words))
        return self.writer.logits(words.view(n, padded, -1)[:, length - 1])

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token to every live row, (rows,) int64; returns the next logits (rows, vocabulary)."""
        stack, heads, rows = self.writer.stack, self.writer.config.text_heads, self.rows
        device = tokens.device
        length = self.length[:rows].to(device)
        states = stack.embed(tokens, length)
        bias = torch.zeros(rows, self.room, dtype=states.dtype, device=device)
        bias.masked_fill_(self.steps > length[:, None], -torch.inf)
        bias = bias[:, None, None]
        which = torch.arange(rows, device=device)
        spots = (self.slot[:rows] * self.stride + self.place[:rows]).to(device)
        shown = states.new_zeros(self.images * self.stride, states.shape[1])
        seen = self.seen[: self.images]
        for layer, said in zip(stack.layers, self.said, strict=True):
            parts = layer.qkv(states).view(rows, 3, heads, -1)
            said[:, which, :, length] = parts[:, 1:]
            context = plain(parts[:, 0, :, None], said[0, :rows], said[1, :rows], bias)
            states = layer.after_self(context.flatten(1), states)
            shown[spots] = layer.cross_query(states)
            attended = layer.cross_attend(shown.view(self.images, self.stride, -1), seen)
            states = layer.mix(layer.after_cross(attended.flatten(0, 1)[spots], states))
        self.length[:rows] += 1
        return self.writer.logits(states)

    def leave(self, row: int) -> int:
        """Take a row out; the last row takes its place. Returns that row's former number.

        An image none of whose rows is left leaves with it.
        """
        slot, last = int(self.slot[row]), self.rows - 1
        if row != last:
            self.said[:, :, row] = self.said[:, :, last]
            for kept in (self.slot, self.place, self.length):
                kept[row] = kept[last]
        self.rows = last
        if not (self.slot[: self.rows] == slot).any():
            end = self.images - 1
            if slot != end:
                self.seen[slot] = self.seen[end]
                self.slot[: self.rows][self.slot[: self.rows] == end] = slot
            self.images = end
        return last

    def follow(self, sources: Tensor) -> None:
        """Row i goes on from what row ``sources[i]`` (rows,) int64 has said: beams that branch and die."""
        self.said[:, :, : self.rows] = self.said[:, :, sources]
