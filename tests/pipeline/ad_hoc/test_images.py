"""`capfilt caption` and `capfilt score`, and what they do, with models that know what an image shows."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import ModelError, RecipeError, UsageError
from capfilt.data_contracts.records import Metric, Record
from capfilt.models.open import open_captioner, open_filter
from capfilt.models.protocols import FLOAT32, Decoding, Inference
from capfilt.pipeline.ad_hoc.images import (
    Unreadable,
    caption,
    decoding_for,
    inference_for,
    model_of,
    score,
)
from capfilt.pipeline.execution.attempt import run_task
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.schema import CaptionKeys
from capfilt.stages.clean.caption import WriteCaptions
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.clean.score import ScorePairs
from capfilt.stages.stage import BroughtModel, GlobalStage, Model, Rows, Site, StageInput
from tests.pipeline.conftest import World
from tests.scenarios.command import here
from tests.stages.rows import FakeCaptioner, FakeFilter, picture, png, run_shard, site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 1 to 5; among them a broken one with a name that would colour a terminal, and a text."""
    for number in range(1, 6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "3b\x1b[31m.png").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("nothing to see")
    return tmp_path


def shown(folder: Path, *numbers: int) -> list[str]:
    return [str(folder / f"{number}.png") for number in numbers]


def test_every_image_with_every_caption_and_what_is_none_with_its_reason(folder: Path) -> None:
    files = [*shown(folder, 1), str(folder), str(folder / "gone.png"), str(folder / "notes.txt")]
    found = list(caption(files, FakeCaptioner(), Decoding(per_image=2), batch=3))
    broken = [row for row in found if isinstance(row, Unreadable)]
    assert [(Path(file).name, reason) for file, reason in broken] == [
        ("3b\x1b[31m.png", "not an image in a known format"),
        ("gone.png", "No such file or directory"),
        ("notes.txt", "not an image in a known format"),
    ]
    rows = [row for row in found if not isinstance(row, Unreadable)]
    assert [(row["file"], row["text"]) for row in rows] == [
        (file, f"{Path(file).stem} seen {index}")
        for file in shown(folder, 1, 1, 2, 3, 4, 5)
        for index in range(2)
    ]
    assert rows[0].keys() == {"file", "text", "logprob"}


def test_every_image_with_every_text(folder: Path) -> None:
    texts = ["(2) Things!", "5 things"]
    found = list(score(shown(folder, 2, 5), texts, FakeFilter(), batch=1))
    assert found == [
        {"file": file, "text": text, "itm": 0.9 if right else 0.1, "itc": 0.5 if right else -0.5}
        for file, number in zip(shown(folder, 2, 5), (2, 5), strict=True)
        for text, right in zip(texts, (number == 2, number == 5), strict=True)
    ]


def test_a_text_of_punctuation_and_an_empty_folder_are_told(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"'\.\.\.' has nothing but punctuation"):
        score(shown(folder, 1), ["a dog", "..."], FakeFilter(), batch=1)
    (folder / "none").mkdir()
    found = list(score([str(folder / "none")], ["a dog"], FakeFilter(), batch=1))
    assert found == [Unreadable(str(folder / "none"), "no images in this folder")]


def test_by_hand_and_in_a_run_the_same_is_written_and_scored(
    folder: Path, tmp_path: Path, blip_captioner: Path, blip_filter: Path
) -> None:
    decoding, texts = Decoding(per_image=2, max_tokens=8, seed=5), ["a red dog", "two cats"]
    by_hand = list(caption(shown(folder, 1, 2), open_captioner(str(blip_captioner)), decoding, batch=16))
    writing = WriteCaptions(BroughtModel("c", str(blip_captioner)), decoding, CaptionGuard(0, 0, False))
    place = site(tmp_path, writing.captioner)
    place.models[writing.captioner] = str(blip_captioner)  # type: ignore[index]
    in_run, _ = run_shard(writing.open(place), picture(1), picture(2))
    assert [row["text"] for row in by_hand] == [row["text"] for row in in_run]  # type: ignore[call-overload]

    scored = list(score(shown(folder, 1), texts, open_filter(str(blip_filter)), batch=16))
    judging = ScorePairs(BroughtModel("f", str(blip_filter)))
    place = site(tmp_path, judging.filter)
    place.models[judging.filter] = str(blip_filter)  # type: ignore[index]
    in_run, _ = run_shard(judging.open(place), picture(1, *texts))
    assert [row["itm"] for row in scored] == pytest.approx([row["itm"] for row in in_run], abs=1e-6)  # type: ignore[call-overload]


def test_a_models_own_prompt_unless_another_is_given(blip_captioner: Path) -> None:
    assert decoding_for(str(blip_captioner), {"top_p": 0.5, "beams": None}, None) == Decoding(top_p=0.5)
    assert decoding_for(str(blip_captioner), {"prompt": ""}, 3) == Decoding(prompt="", seed=3)
    with pytest.raises(RecipeError, match="this top_p"):
        decoding_for(str(blip_captioner), {"top_p": 2.0}, None)


def test_a_runs_models_and_its_way_of_decoding(
    finished: Ledger, blip_filter: Path, blip_captioner: Path
) -> None:
    """This run brought both models; its recipe says how to caption, and an option changes one key of it."""
    where = finished.url
    assert model_of(where, "filter") == str(blip_filter)
    assert model_of(where, "captioner") == str(blip_captioner)
    assert model_of(str(blip_filter), "filter") == str(blip_filter)
    assert decoding_for(where, {}, None) == Decoding()


def test_a_runs_own_recipe_is_the_default(world: World, blip_captioner: Path) -> None:
    from capfilt.pipeline.execution.create_run import create_run

    models = {**world.plan().recipe.plain()["models"], "precision": "bf16", "itm_token": "cls"}
    plan = world.plan(caption={"top_p": 0.7, "per_image": 3}, models=models, seed=4)
    create_run(plan, world.ledger, None)
    where = world.ledger.url
    assert (inference_for(where), inference_for(str(blip_captioner))) == (Inference("bf16", "cls"), FLOAT32)
    assert decoding_for(where, {}, None) == Decoding(top_p=0.7, per_image=3, seed=4)
    assert decoding_for(where, {"per_image": 1}, 9) == Decoding(top_p=0.7, per_image=1, seed=9)
    assert CaptionKeys().prompt is None  # type: ignore[attr-defined]  # or the model's own would never be asked


def test_a_run_that_trains_its_models(world: World, blip_filter: Path) -> None:
    from capfilt.pipeline.execution.create_run import create_run

    plan = world.plan(models={"init": "tiny", "tokenizer": "wordpiece:100", "filter": {}, "captioner": {}})
    create_run(plan, world.ledger, None)
    with pytest.raises(ModelError, match="has not trained its filter yet") as caught:
        model_of(world.ledger.url, "filter")
    assert "--until filter" in caught.value.remedy
    task = Task(
        world.ledger.url,
        "filter",
        TrainedModel(str(blip_filter)),
        "f",
        "",
        upstream=(),
        models={},
        digests={},
    )
    run_task(task, lambda task, site: pytest.fail("a global stage is not opened"))
    assert model_of(world.ledger.url, "filter") == str(world.ledger.storage.path / "models/filter")


@dataclass(frozen=True)
class TrainedModel(GlobalStage):
    """A training that ends with a copy of a model."""

    produces: ClassVar[type[Record]] = Metric

    model: str

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        yield Model(Path(shutil.copytree(self.model, site.scratch / "model")))
        yield Rows(Contract(Metric).table([]), shard="0000000", units=0)


@pytest.mark.usefixtures("_knowing_models")
def test_the_caption_command(folder: Path, blip_captioner: Path) -> None:
    options = ("--model", blip_captioner, "--per-image", 2, "--strategy", "greedy", "--json")
    ended = here("caption", folder, folder / "gone.png", *options, expect=1)
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [row["text"] for row in rows[:3]] == ["1 seen 0", "1 seen 1", "2 seen 0"]
    assert len(rows) == 10
    assert [line.removeprefix(f"{folder}/") for line in ended.err.splitlines()] == [
        "3b\ufffd[31m.png: not an image in a known format",
        "gone.png: No such file or directory",
    ]


@pytest.mark.usefixtures("_knowing_models")
def test_the_score_command(folder: Path, blip_filter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    asked = ("--text", "2 [bold]\x1b[31m", "--text", "a dog", "--model", blip_filter)
    table = here("score", "2.png", "4.png", *asked).out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    assert cells == [
        ["2.png", "0.9000", "0.5000", "2 [bold]\ufffd[31m"],
        ["2.png", "0.1000", "-0.5000", "a dog"],
        ["4.png", "0.1000", "-0.5000", "2 [bold]\ufffd[31m"],
        ["4.png", "0.1000", "-0.5000", "a dog"],
    ]
    assert "\x1b" not in table
    line = here("score", "2.png", *asked[2:], "--json").out
    assert json.loads(line) == {"file": "2.png", "text": "a dog", "itm": 0.1, "itc": -0.5}


def test_what_cannot_be_asked(folder: Path, blip_filter: Path) -> None:
    for arguments in (
        ("caption", folder, "--model", blip_filter),  # a filter
        ("caption", folder, "--model", folder / "no-such-model"),
        ("caption", folder, "--model", blip_filter, "--strategy", "guess"),
        ("score", folder, "--model", blip_filter),  # no text
        ("score", folder, "--model", blip_filter, "--text", "!"),
    ):
        ended = here(*arguments, expect=2)
        assert ended.err
        assert not ended.out


def test_neither_command_needs_ray(folder: Path, blip_filter: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from capfilt.pipeline.commands.cli import main; "
        f"sys.argv = ['capfilt', 'score', {str(folder / '1.png')!r}, '--text', 'a dog', '--model', "
        f"{str(blip_filter)!r}]; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "a dog" in ended.stdout
