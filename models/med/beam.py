"""Beam search, batched over images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.med.attention import KeyValue
from models.med.model import Med
from models.protocols import Decoding


class Tokens(NamedTuple):
    """The tokens after the prompt, end token excluded, and their summed log-probability with it included."""

    ids: list[int]
    logprob: float


def without_end(logits: Tensor, sep: int) -> Tensor:
    """The logits (rows, vocabulary) of a caption that is still too short to end."""
    return logits.index_fill(1, torch.tensor([sep], device=logits.device), -torch.inf)


@torch.inference_mode()
def beam_search(
    model: Med, image: list[KeyValue], prompt: Sequence[int], decoding: Decoding, images: int
) -> list[Tokens]:
    """The caption of highest mean log-probability per token found with ``decoding.beams`` beams.

    Each step looks at the ``2 * beams`` best continuations of an image: at most ``beams`` of them end, so
    enough stay alive. An image is done when no live beam can beat its worst finished one, as in transformers.
    """
    config, device, beams = model.config, model.temp.device, decoding.beams
    ids = torch.tensor([[config.dec, *prompt]], device=device).expand(images * beams, -1)
    # all beams start alike: only the first may spread, or all would be one
    totals = torch.full((images, beams), -torch.inf, device=device)
    totals[:, 0] = 0.0
    written = torch.zeros(images * beams, 0, dtype=torch.int64, device=device)
    finished: list[list[Tokens]] = [[] for _ in range(images)]
    done = [False] * images
    past: list[KeyValue] | None = None
    for step in range(decoding.max_tokens):
        logits, past = model.text_decoder(ids, image, past)
        scores = logits[:, -1].log_softmax(-1)
        if step < decoding.min_tokens:
            scores = without_end(scores, config.sep)
        continued = (totals.view(-1, 1) + scores).view(images, -1)
        best, places = continued.topk(2 * beams, 1)
        sources, tokens = places // config.vocabulary, places % config.vocabulary
        ended = tokens == config.sep
        for number in range(images):
            if not done[number]:
                for rank in ended[number, :beams].nonzero()[:, 0].tolist():
                    row = number * beams + int(sources[number, rank])
                    finished[number].append(Tokens(written[row].tolist(), float(best[number, rank])))
                done[number] = _decided(finished[number], float(best[number, 0]), step + 1, beams)
        # the best that go on, in order; a stable sort puts the ended ones last
        chosen = ended.int().argsort(dim=1, stable=True)[:, :beams]
        totals = best.gather(1, chosen)
        rows = (sources.gather(1, chosen) + torch.arange(images, device=device)[:, None] * beams).flatten()
        ids = tokens.gather(1, chosen).view(-1, 1)
        written = torch.cat([written[rows], ids], 1)
        past = [layer.rows(rows) for layer in past]
        if all(done):
            break
    for number in range(images):
        if not done[number]:
            for beam in range(beams):
                row = number * beams + beam
                finished[number].append(Tokens(written[row].tolist(), float(totals[number, beam])))
    return [max(own, key=_mean) for own in finished]


def _mean(tokens: Tokens) -> float:
    return tokens.logprob / (len(tokens.ids) + 1)


def _decided(finished: list[Tokens], best: float, length: int, beams: int) -> bool:
    kept = sorted((_mean(tokens) for tokens in finished), reverse=True)[:beams]
    return len(kept) == beams and kept[-1] >= best / length
