import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.engine.captioner import EngineCaptioner
from capfilt.models.engine.matcher import EngineMatcher
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.protocols import Decoding
from capfilt.models.training.data import PairSource
from capfilt.models.training.jobs import (
    finetune_captioner,
    finetune_filter,
    pretrain,
    warm_up,
    warm_up_on_labels,
)
from capfilt.models.training.loop import Execution, learning_rate
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)

QUICK = PretrainSettings(steps=6, warmup=2, batch=8, itm_latest=0.3)


def weights(model: Med) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_a_handful_of_pairs_is_learnt(model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    records: list[dict[str, float]] = []
    execution = Execution(on_step=records.append)
    warm_up(model, tokenizer, pairs, WarmupSettings(steps=40, lr=3e-3, batch=24, crop=1.0), execution)
    assert records[-1]["loss"] < 0.9
    settings = PretrainSettings(steps=100, lr=3e-3, warmup=10, batch=24, crop=1.0, hard_from=0.3)
    pretrain(model, tokenizer, pairs, (), settings, execution)
    filtering, captioning = copy.deepcopy(model), copy.deepcopy(model)
    finetune_filter(
        filtering, tokenizer, pairs, (), FilterSettings(steps=60, lr=2e-3, batch=24, crop=1.0), execution
    )
    captioner = CaptionerSettings(steps=40, lr=2e-3, batch=24, crop=1.0)
    finetune_captioner(captioning, tokenizer, pairs, (), captioner, execution)
    images = [Image.fromarray(image) for image in pairs.images[:12]]
    truths = [own[0] for own in pairs.own[:12]]
    greedy = Decoding(strategy="greedy", min_tokens=1)
    written = EngineCaptioner(captioning, tokenizer).caption(images, list(pairs.image_ids[:12]), greedy)
    assert sum(own[0].text == truth for own, truth in zip(written, truths, strict=True)) >= 10
    both = [[truth, truths[(number + 1) % 12]] for number, truth in enumerate(truths)]
    matches = EngineMatcher(filtering, tokenizer).match(images, both)
    assert sum(right.itm > wrong.itm for right, wrong in matches) >= 10
    assert {"step", "steps", "loss", "lm", "lr", "grad_norm", "seconds"} <= records[-1].keys()


def test_labels_can_warm_up_too(model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    records: list[dict[str, float]] = []
    labels = [own[0].split()[0] for own in pairs.own]
    settings = WarmupSettings(steps=40, lr=3e-3, batch=24, crop=1.0)
    classes = warm_up_on_labels(
        model, tokenizer, pairs.images, labels, settings, Execution(on_step=records.append)
    )
    assert classes == ["blue", "green", "red", "white", "yellow"]
    assert records[-1]["accuracy"] == 1.0


@pytest.mark.parametrize("queue", [0, 12])
def test_a_restart_ends_where_an_unbroken_run_does(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet, tmp_path: Path, queue: int
) -> None:
    settings = replace(QUICK, queue=queue)
    unbroken, broken, restarted = model, copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(5)  # the queue starts from random pairs
    pretrain(unbroken, tokenizer, pairs, [PairSource(pairs, 1.0)], settings, Execution())

    def stop(record: dict[str, float]) -> None:
        if record["step"] == 5:
            raise KeyboardInterrupt

    execution = Execution(checkpoints=tmp_path, every=2)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            broken, tokenizer, pairs, [PairSource(pairs, 1.0)], settings, replace(execution, on_step=stop)
        )
    steps: list[float] = []
    note = replace(execution, on_step=lambda record: steps.append(record["step"]))
    pretrain(restarted, tokenizer, pairs, [PairSource(pairs, 1.0)], settings, note)
    assert steps == [5, 6]
    assert torch.equal(weights(restarted), weights(unbroken))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_checkpoint_of_another_job_is_refused(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet, tmp_path: Path
) -> None:
    execution = Execution(checkpoints=tmp_path)
    pretrain(model, tokenizer, pairs, (), QUICK, execution)
    with pytest.raises(TrainingError, match="does not belong to this job"):
        pretrain(model, tokenizer, pairs, (), replace(QUICK, lr=1e-4), execution)


def test_a_loss_that_is_not_finite_stops_the_job(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    with torch.no_grad():
        model.vision_proj.weight[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="no longer a finite number"):
        finetune_filter(model, tokenizer, pairs, (), FilterSettings(steps=3, batch=8), Execution())


def test_itm_waits_for_itc(model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    records: list[dict[str, float]] = []
    settings = replace(QUICK, itm_from=1.1, itm_latest=0.5)
    pretrain(model, tokenizer, pairs, (), settings, Execution(on_step=records.append))
    assert ["itm" in record for record in records] == [False] * 3 + [True] * 3


def test_images_without_words_stop_the_warm_up(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    silent = PairSet(pairs.images[:2], [["12"], ["of"]], ["a", "b"])
    with pytest.raises(TrainingError, match="no words"):
        warm_up(model, tokenizer, silent, WarmupSettings(steps=1), Execution())


def test_the_learning_rate_rises_and_falls() -> None:
    settings = WarmupSettings(steps=100, lr=1.0, warmup=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == 1.0 == max(rates)
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001


def test_what_ran_before_in_the_process_changes_nothing(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    for trained, unrelated in ((first, 1), (second, 2)):
        torch.manual_seed(unrelated)
        warm_up(trained, tokenizer, pairs, WarmupSettings(steps=3, batch=4), Execution())
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
