import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from capfilt.models.training.loop import Execution
from capfilt.models.training.settings import FilterSettings
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import BroughtModel, Site, StageInput, TrainedModel
from capfilt.stages.training.finetune import FinetuneFilter
from capfilt.stages.training.start import Fresh
from capfilt.stages.training.train import _read_curve
from tests.stages.rows import site


def line(step: int, loss: float = 1.0, **more: float) -> str:
    values = {"step": step, "steps": 9, "loss": loss, "lr": 0.1, "grad_norm": 1.0, "seconds": 0.1}
    return json.dumps(values | more) + "\n"


def test_a_curve_whose_last_line_was_cut_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(1) + line(2, itm=0.5) + line(3)[:20] + "\n" + line(3, 0.7) + line(4)[:10])
    curve = _read_curve(path)
    assert [step.step for step in curve] == [1, 2, 3]
    assert (curve[1].itm, curve[1].itc, curve[2].loss) == (0.5, None, 0.7)


class Attempt(FinetuneFilter):
    """A training of three steps without a model; the last one is checked on the way."""

    def _load(self, site: Site) -> None:  # type: ignore[override]
        return None

    def train(self, loaded: object, site: Site, inputs: StageInput, execution: Execution) -> str:
        for step in (2, 3):
            execution.on_step(json.loads(line(step, 0.5)))
            assert json.loads((site.lasting() / "steps.jsonl").read_text().splitlines()[-1])["step"] == step
        raise InterruptedError


def test_every_step_is_on_disk_before_the_next_and_after_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "lasting/steps.jsonl"
    path.parent.mkdir()
    path.write_text(line(1) + line(2)[:20])
    with pytest.raises(InterruptedError):
        Attempt(TrainedModel("pretrain"), FilterSettings()).work(site(tmp_path), MemoryInput({}))
    assert [(step.step, step.loss) for step in _read_curve(path)] == [(1, 1.0), (2, 0.5), (3, 0.5)]


def test_of_a_step_that_ran_twice_the_later_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(1) + line(2, 9.0) + line(3, 9.0) + line(2, 2.0) + line(3, 3.0))
    assert [step.loss for step in _read_curve(path)] == [1.0, 2.0, 3.0]


def test_a_line_that_is_no_step_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(1, lr=-1.0))
    with pytest.raises(ValidationError):
        _read_curve(path)


def test_a_training_needs_the_model_that_it_starts_from() -> None:
    settings = FilterSettings()
    brought = BroughtModel("d", "/somewhere")
    assert FinetuneFilter(TrainedModel("pretrain"), settings).models == (TrainedModel("pretrain"),)
    assert FinetuneFilter(brought, settings).models == (brought,)
    assert FinetuneFilter(Fresh("tiny", TrainedModel("tokenizer"), 0), settings).models == (
        TrainedModel("tokenizer"),
    )
