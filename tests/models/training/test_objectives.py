"""Each loss against a few lines of float64 that follow the paper word by word."""

import math

import pytest
import torch
from torch import Tensor

from capfilt.models.med.model import Med
from capfilt.models.training.objectives import (
    draw_negatives,
    itc_loss,
    itc_targets,
    itm_loss,
    lm_loss,
    negative_weights,
    same_pairs,
)

TEXTS = torch.tensor([[2, 8, 9, 3, 0], [2, 10, 3, 0, 0], [2, 9, 8, 11, 3]])


@pytest.fixture
def exact(model: Med) -> Med:
    return model.double().eval()


def look(model: Med) -> tuple[Tensor, list[object]]:
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    states = model.encode_images(pixels)
    return states, model.text_encoder.image_keys_values(states)


def test_itc_counts_every_positive_alike() -> None:
    keys = torch.tensor([[0, 5], [1, 6], [0, 7], [4, 6]])  # 0 and 2 one image, 1 and 3 one text
    same = same_pairs(keys, keys)
    assert same.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    similarity = torch.randn(4, 4, dtype=torch.float64)
    targets = itc_targets(same).double()
    expected = 0.0
    for scores in (similarity.tolist(), similarity.T.tolist()):
        for row, values in enumerate(scores):
            total = math.log(sum(math.exp(value) for value in values))
            positives = [column for column in range(4) if same[row, column]]
            expected += -sum(values[column] - total for column in positives) / len(positives) / 4 / 2
    assert itc_loss(similarity, similarity.T, targets, targets).item() == pytest.approx(expected, abs=1e-12)


def test_itm_is_the_cross_entropy_of_every_text_with_the_image_it_is_shown_with(exact: Med) -> None:
    _, image = look(exact)
    pairs = [(0, 0, 1), (1, 1, 1), (2, 2, 1), (0, 1, 0), (1, 2, 0), (2, 0, 0), (2, 1, 0)]
    texts, shown, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = itm_loss(exact, TEXTS[texts], image, shown, labels)  # type: ignore[arg-type]
    losses, probabilities = [], []
    for text, picture, label in pairs:
        ids = TEXTS[text : text + 1].clone()
        ids[0, 0] = exact.config.enc
        logits = exact.match(ids, [layer.rows(torch.tensor([picture])) for layer in image])  # type: ignore[attr-defined]
        losses.append(-logits.log_softmax(1)[0, label].item())
        probabilities.append(logits.softmax(1)[0, 1].item())
    assert found.loss.item() == pytest.approx(sum(losses) / 7, abs=1e-10)
    assert found.matches.tolist() == pytest.approx(probabilities[:3])
    assert found.mismatches.tolist() == pytest.approx(probabilities[3:])


@pytest.mark.parametrize("prompt_tokens", [0, 1])
def test_lm_leaves_out_pads_and_prompt(exact: Med, prompt_tokens: int) -> None:
    _, image = look(exact)
    smoothing, losses = 0.1, []
    for row, text in enumerate(TEXTS.tolist()):
        length = len(text) - text.count(0)
        ids = torch.tensor([[exact.config.dec, *text[1:length]]])
        kept = [layer.rows(torch.tensor([row])) for layer in image]  # type: ignore[attr-defined]
        logits, _ = exact.text_decoder(ids, kept)
        for place in range(prompt_tokens, length - 1):
            logp = logits[0, place].log_softmax(-1)
            losses.append(-(1 - smoothing) * logp[text[place + 1]] - smoothing * logp.mean())
    found = lm_loss(exact, TEXTS, image, prompt_tokens)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-10)


def test_negatives_are_uniform_first_and_blips_at_last() -> None:
    similarity = torch.tensor([[9.0, 2.0, 1.0], [0.0, 9.0, 3.0], [1.0, 1.0, 9.0]])
    same = torch.eye(3).bool()
    even, hard = (negative_weights(similarity, same, hardness) for hardness in (0.0, 1.0))
    assert even[0, 1] == even[0, 2]
    assert even.diagonal().sum() == hard.diagonal().sum() == 0
    assert (hard[0, 1] / hard[0, 2]).item() == pytest.approx(math.e, rel=1e-2)


def test_rows_without_a_negative_do_not_crash_the_draw() -> None:
    similarity = torch.zeros(4, 4)
    similarity[0] = torch.tensor([500.0, 0.0, 0.0, 0.0])  # the softmax underflows to 0 off the diagonal
    same = torch.eye(4).bool()
    same[3], same[:, 3] = True, True  # pair 3 is the same as everything
    for number in range(50):
        drawn = draw_negatives(similarity, same, 1.0, torch.Generator().manual_seed(number))
        assert drawn.found.tolist() == [True, True, True, False]
        for row in range(3):
            assert not same[row, drawn.texts[row]]
            assert not same[drawn.images[row], row]
    everything = torch.ones(4, 4).bool()
    assert not draw_negatives(similarity, everything, 0.5, torch.Generator()).found.any()
