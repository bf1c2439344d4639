"""The momentum teacher against a slow float64 reference that keeps everything in lists (ALBEF, algorithm 1)."""

import math

import pytest
import torch
from torch import Tensor

from capfilt.models.med.model import Med
from capfilt.models.training.momentum import MomentumTeacher
from capfilt.models.training.objectives import itc_loss

Vector = list[float]


def unit(values: Vector) -> Vector:
    size = math.sqrt(sum(value * value for value in values))
    return [value / size for value in values]


def dot(one: Vector, two: Vector) -> float:
    return sum(left * right for left, right in zip(one, two, strict=True))


def softmax(values: Vector) -> Vector:
    top = max(values)
    raised = [math.exp(value - top) for value in values]
    return [value / sum(raised) for value in raised]


def reference(
    own: tuple[list[Vector], list[Vector]],
    slow: tuple[list[Vector], list[Vector]],
    queue: tuple[list[Vector], list[Vector]],
    keys: list[list[int]],
    queue_keys: list[list[int]],
    temperature: float,
    alpha: float,
) -> float:
    """Mean of both directions' cross-entropy with soft targets, over the batch and the queue."""
    total = 0.0
    for mine, theirs in ((0, 1), (1, 0)):
        candidates = slow[theirs] + queue[theirs]
        for row, key in enumerate(keys):
            scores = [dot(own[mine][row], other) / temperature for other in candidates]
            guess = softmax([dot(slow[mine][row], other) / temperature for other in candidates])
            positive = [any(a == b for a, b in zip(key, other, strict=True)) for other in keys + queue_keys]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            for column, score in enumerate(scores):
                hard = positive[column] / sum(positive)
                target = alpha * guess[column] + (1 - alpha) * hard
                total -= target * (score - log_sum) / len(keys) / 2
    return total


@pytest.fixture
def teacher(model: Med) -> MomentumTeacher:
    return MomentumTeacher(model.double(), size=4, decay=0.9).double()


def rows(count: int, width: int, seed: int) -> list[Vector]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return [unit(row) for row in values.tolist()]


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_soft_targets_with_a_queue(teacher: MomentumTeacher, alpha: float) -> None:
    width, temperature = teacher.model.config.projection, 0.2
    old, slow, own = (
        (rows(count, width, seed), rows(count, width, seed + 1))
        for count, seed in ((4, 10), (3, 20), (3, 30))
    )
    # pair 0 has the image of pair 2, pair 1 the text of the queue's third; the queue's last is empty
    keys = [[1, 11], [2, 12], [1, 13]]
    queue_keys = [[5, 15], [6, 16], [7, 12], [-1, -1]]

    def tensor(vectors: list[Vector]) -> Tensor:
        return torch.tensor(vectors, dtype=torch.float64)

    teacher.enqueue((tensor(old[0]), tensor(old[1])), torch.tensor(queue_keys))
    batch = (tensor(slow[0]), tensor(slow[1]))
    images, texts = teacher.candidates(batch)
    own_keys = torch.tensor(keys)
    targets = teacher.targets(batch, batch, own_keys, own_keys, torch.tensor(temperature), alpha)
    found = itc_loss(
        tensor(own[0]) @ texts.T / temperature, tensor(own[1]) @ images.T / temperature, *targets
    )
    expected = reference(own, slow, old, keys, queue_keys, temperature, alpha)
    assert found.item() == pytest.approx(expected, abs=1e-6)  # hard targets are float32
    assert torch.allclose(targets[0].sum(1), torch.ones(3, dtype=torch.float64))


def test_the_average_moves_by_one_minus_the_decay(teacher: MomentumTeacher, model: Med) -> None:
    before = teacher.model.itm_head.weight.clone()
    with torch.no_grad():
        model.itm_head.weight += 1.0
    for step in range(1, 4):
        teacher.update(model)
        expected = before + (1 - 0.9**step)
        assert torch.allclose(teacher.model.itm_head.weight, expected)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_the_queue_forgets_the_oldest(teacher: MomentumTeacher) -> None:
    width = teacher.model.config.projection
    for number in range(3):
        part = torch.full((2, width), float(number), dtype=torch.float64)
        teacher.enqueue((part, -part), torch.full((2, 2), number))
    assert teacher.images[:, 0].tolist() == [2.0, 2.0, 1.0, 1.0]
    assert teacher.texts[:, 0].tolist() == [-2.0, -2.0, -1.0, -1.0]
    assert teacher.keys[:, 0].tolist() == [2, 2, 1, 1]


def test_an_empty_queue_has_no_positives(teacher: MomentumTeacher) -> None:
    batch = (teacher.images[:2], teacher.texts[:2])
    keys = torch.tensor([[1, 2], [4, 5]])
    towards_texts, _ = teacher.targets(batch, batch, keys, keys, torch.tensor(0.1), 0.0)
    assert towards_texts[:, 2:].sum() == 0
