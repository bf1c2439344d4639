"""Zero-shot classification: an image's label is the one whose prompt is nearest to it (CLIP, arXiv 2103.00020)."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from capfilt.data_contracts.errors import UsageError
from capfilt.models.protocols import Embedder
from capfilt.stages.dedup.embed import embed_texts

TEMPLATE = "a picture of a {}"


def prompts(embedder: Embedder, labels: Sequence[str], templates: Sequence[str]) -> NDArray[np.float32]:
    """A vector a label: the mean over its templates, L2-normalised; shape (labels, dim), float32.

    Raises:
        UsageError: fewer than two labels, a label twice, or a template without its place.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
        raise UsageError(
            what="these labels cannot be told apart",
            evidence=f"labels: {', '.join(map(repr, labels)) or 'none'}",
            remedy='give two or more different ones, such as --labels "dog,cat,horse"',
        )
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(
                what="a template needs one place for the label",
                evidence=f"{template!r} has {template.count('{}')} of {{}}",
                remedy=f'such as --template "{TEMPLATE}"',
            )
    texts = [template.replace("{}", label) for label in labels for template in templates]
    read = embed_texts(embedder, texts).astype(np.float64).reshape(len(labels), len(templates), -1).mean(1)
    found: NDArray[np.float32] = (read / np.linalg.norm(read, axis=1, keepdims=True)).astype(np.float32)
    return found


def probabilities(
    images: NDArray[Any], labels: NDArray[np.float32], temperature: float
) -> NDArray[np.float64]:
    """softmax over the labels of cosine / temperature; shape (images, labels), float64."""
    scores = images.astype(np.float64) @ labels.astype(np.float64).T / temperature
    scores -= scores.max(1, keepdims=True)
    odds = np.exp(scores)
    found: NDArray[np.float64] = odds / odds.sum(1, keepdims=True)
    return found


class Evaluation(NamedTuple):
    """``confusion[true][said]`` counts images; ``unknown`` are those whose true label is none of those asked."""

    accuracy: float
    chance: float
    majority: float
    images: int
    unknown: int
    confusion: dict[str, dict[str, int]]


def evaluate(said: Mapping[str, str], truth: Mapping[str, str], labels: Sequence[str]) -> Evaluation:
    """Against the true label of each image, by its row. Chance is a guess at random, majority the commonest label.

    Raises:
        UsageError: no image has a true label among those asked.
    """
    known = {name: truth[name] for name in said if truth.get(name) in labels}
    if not known:
        some = list(dict.fromkeys(truth.get(name, "") for name in said))[:5]
        raise UsageError(
            what="no image has a true label that was asked for",
            evidence=f"labels: {', '.join(labels)}; the column has {', '.join(map(repr, some)) or 'nothing'}",
            remedy="write --labels as the column does",
        )
    confusion = {label: dict.fromkeys(labels, 0) for label in labels}
    for name, label in known.items():
        confusion[label][said[name]] += 1
    right = sum(confusion[label][label] for label in labels)
    commonest = Counter(known.values()).most_common(1)[0][1]
    return Evaluation(
        right / len(known),
        1 / len(labels),
        commonest / len(known),
        len(known),
        len(said) - len(known),
        confusion,
    )


def read_labels(table: Path, column: str) -> dict[str, str]:
    """The true label of each file in a CSV with a column ``file``; a file is known by its path and by its name.

    Raises:
        UsageError: the table or a column is not there.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            if "file" not in names or column not in names:
                raise UsageError(
                    what=f"{table} has no column {column if 'file' in names else 'file'!r}",
                    evidence=f"its columns: {', '.join(names)}",
                    remedy="it is a CSV with a column `file` and the one that --evaluate names",
                )
            found = {row["file"]: row[column] for row in rows}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(what=f"{table} cannot be read", evidence=str(error)) from error
    return found | {Path(name).name: label for name, label in found.items()}
