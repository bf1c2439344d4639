"""Decoding with a key/value cache: nucleus sampling and greedy; beam search is in its own module.

All rows advance together, one token a step, until each has ended. A row's result does not depend on the
others.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.med.attention import KeyValue
from models.med.beam import Tokens, beam_search, without_end
from models.med.model import Med
from models.protocols import Decoding
from models.sampling import CaptionRandom


def nucleus_choice(logits: Tensor, noise: Tensor, top_p: float) -> Tensor:
    """Draw one token a row from the nucleus of ``logits`` (rows, vocabulary); returns (rows,), int64.

    The nucleus is the smallest set of likeliest tokens with mass ``top_p`` or more: a token is in it if the
    mass of strictly likelier ones is below ``top_p``. With Gumbel ``noise`` the argmax over the set is the
    draw, so candidates are taken in order of noisy log-probability until one is in; this needs no sort and is
    exact.
    """
    probability = logits.softmax(-1)
    noisy = logits.log_softmax(-1) + noise
    while True:
        choice = noisy.argmax(-1, keepdim=True)
        own = probability.gather(-1, choice)
        outside = probability.where(probability > own, 0.0).sum(-1, keepdim=True) >= top_p
        if not outside.any():
            return choice[:, 0]
        # what is not likelier than a token outside is outside too
        noisy = noisy.masked_fill(outside & (probability <= own), -torch.inf)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """CTRL's penalty: logits of ``seen`` tokens (rows, vocabulary bool) divided, or multiplied if
    negative."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


@torch.inference_mode()
def decode(
    model: Med, image: list[KeyValue], prompt: Sequence[int], decoding: Decoding, image_ids: Sequence[str]
) -> list[list[Tokens]]:
    """``decoding.per_image`` captions of every image; ``image`` are the cross keys and values, one row an
    image.

    Greedy and beam give the same caption ``per_image`` times: there is nothing to draw.
    """
    if decoding.strategy == "beam":
        captions = beam_search(model, image, prompt, decoding, len(image_ids))
        return [[caption] * decoding.per_image for caption in captions]
    sampling = decoding.strategy == "nucleus"
    shared = decoding.per_image if sampling else 1
    draws = [CaptionRandom(decoding.seed, name, number) for name in image_ids for number in range(shared)]
    rows = _sample(model, image, prompt, decoding, draws if sampling else None, len(draws))
    if not sampling:
        return [[row] * decoding.per_image for row in rows]
    return [rows[start : start + shared] for start in range(0, len(rows), shared)]


def _sample(
    model: Med,
    image: list[KeyValue],
    prompt: Sequence[int],
    decoding: Decoding,
    draws: list[CaptionRandom] | None,
    rows: int,
) -> list[Tokens]:
    config, device = model.config, model.temp.device
    ids = torch.tensor([[config.dec, *prompt]], device=device).expand(rows, -1)
    seen = torch.zeros(rows, config.vocabulary, dtype=torch.bool, device=device).scatter_(1, ids, True)
    total = torch.zeros(rows, device=device)
    live = torch.ones(rows, dtype=torch.bool, device=device)
    written = torch.full((rows, decoding.max_tokens), config.sep, device=device)
    past: list[KeyValue] | None = None
    for step in range(decoding.max_tokens):
        logits, past = model.text_decoder(ids, image, past)
        raw = logits[:, -1]
        shaped = without_end(raw, config.sep) if step < decoding.min_tokens else raw
        if draws is None:
            choice = shaped.argmax(-1)
        else:
            shaped = penalise_repetition(shaped, seen, decoding.repetition_penalty)
            noise = _noise(draws, live, config.vocabulary).to(device)
            choice = nucleus_choice(shaped, noise, decoding.top_p)
        choice = choice.where(live, config.sep)
        gain = raw.log_softmax(-1).gather(1, choice[:, None])[:, 0]
        total = total + gain.where(live, 0.0)
        written[:, step] = choice
        live = live & (choice != config.sep)
        if not live.any():
            break
        seen.scatter_(1, choice[:, None], True)
        ids = choice[:, None]
    ends = [row.index(config.sep) if config.sep in row else len(row) for row in written.tolist()]
    return [
        Tokens(row[:end], logprob)
        for row, end, logprob in zip(written.tolist(), ends, total.tolist(), strict=True)
    ]


def _noise(draws: list[CaptionRandom], live: Tensor, vocabulary: int) -> Tensor:
    """Each unfinished row's next noise, (rows, vocabulary); a finished row draws nothing more."""
    noise = np.zeros((len(draws), vocabulary), dtype=np.float32)
    for row in live.nonzero()[:, 0].tolist():
        noise[row] = draws[row].gumbel(vocabulary)
    return torch.from_numpy(noise)
