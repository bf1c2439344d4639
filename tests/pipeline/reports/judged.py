"""A run whose filter errs, with a human set large enough to tell how often."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capfilt.data_contracts.identity import image_id, split_of
from capfilt.data_contracts.records import Split
from capfilt.models.protocols import Match, Written
from capfilt.pipeline.ledger.ledger import Ledger
from tests.pipeline.local import plan_of, run
from tests.stages.rows import FakeCaptioner, FakeFilter, number_of, png

HELD_OUT, WEB = 60, 120
THINGS = tuple(
    f"{colour} {noun}"
    for noun in ("cup", "box", "jar", "hat", "dog", "cat", "hen", "cow")
    for colour in ("red", "blue", "green", "black")
)


class Noisy(FakeFilter):
    """As sure as its luck is, which is that of the image and the text; it reads the first word and no other."""

    def match(self, images, texts):
        found = super().match(images, texts)
        return [
            [
                Match(1 / (1 + np.exp(-np.log(match.itm / (1 - match.itm)) - luck(image, text))), match.itc)
                for match, text in zip(matches, own, strict=True)
            ]
            for image, matches, own in zip(images, found, texts, strict=True)
        ]


def luck(image: Any, text: str) -> float:
    seed = [number_of(image), *text.encode()]
    return float(np.random.default_rng(seed).standard_normal())


class Writer(FakeCaptioner):
    """Says of an image what it shows; of every fifth one it turns it round, which the filter does not see."""

    def caption(self, images, image_ids, decoding):
        numbers = map(number_of, images)
        return [[Written(says(number, number, turned=number % 5 == 0), -1.0)] for number in numbers]


def says(number: int, shown: int, turned: bool = False) -> str:
    first, second = THINGS[shown % 32], THINGS[(shown + 5) % 32]
    return (
        f"{number} shows a {second} above a {first}"
        if turned
        else f"{number} shows a {first} above a {second}"
    )


def write(folder: Path, numbers: list[int], false: int = 0) -> None:
    """Images and what they show; the first ``false`` have a text about another one."""
    folder.mkdir(parents=True)
    rows = ["file,text"]
    for at, number in enumerate(numbers):
        (folder / f"{number}.png").write_bytes(png(number))
        about = 5000 + number if at < false else number
        rows.append(f"{number}.png,{says(about, number)}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def judged_run(folder: Path, models: dict[str, Path]) -> Ledger:
    """A run whose filter errs now and then, with a human set large enough to be judged by; a third of the web is
    false."""
    splits: dict[Split, list[int]] = {split: [] for split in Split}
    for number in range(1000, 4000):
        splits[split_of(image_id(png(number)))].append(number)
    test = splits[Split.TEST][: HELD_OUT + 5]
    write(folder / "human", [*splits[Split.CALIBRATE][:HELD_OUT], *test, *splits[Split.TRAIN][:5]])
    write(folder / "web", [*range(1, 1 + WEB - 5), *test[HELD_OUT:]], false=WEB // 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capfilt.models.open.open_filter", lambda *_: Noisy())
        patch.setattr("capfilt.models.open.open_captioner", lambda *_: Writer())
        return run(plan_of(folder, models, select={"threshold": {"recall": 0.9}}, shards={"target": "1MB"}))
