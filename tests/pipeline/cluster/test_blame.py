"""What a failed task deserves; the scheduling itself is tested with real workers that die."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from capfilt.data_contracts.errors import StageError
from capfilt.pipeline.cluster.blame import TRIES, Judge
from capfilt.pipeline.cluster.worker import SILENT
from capfilt.pipeline.execution.task import Task
from capfilt.stages.clean.export import ExportPairs

ROWS = [f"row {number}" for number in range(40)]
POISON_LIMIT = 20


@pytest.fixture
def task() -> Task:
    stage = ExportPairs(embed=True)
    return Task("nowhere", "score", stage, "f", "0000000", upstream=(), models={}, digests={})


@pytest.fixture
def judge() -> Judge:
    return Judge(POISON_LIMIT)


def dies(judge: Judge, task: Task, in_hand: Sequence[str], how: str = "it died") -> Task:
    return judge.blame(task, in_hand, how)


def test_the_batch_in_hand_becomes_suspect_and_the_row_that_dies_alone_is_poison(
    task: Task, judge: Judge
) -> None:
    second = dies(judge, task, ROWS[:3])
    assert (second.suspects, second.attempt, dict(second.poison)) == (frozenset(ROWS[:3]), 2, {})
    third = dies(judge, second, ROWS[1:2], "first\nSIGSEGV\n")
    assert dict(third.poison) == {ROWS[1]: "SIGSEGV"}
    assert (third.suspects, third.attempt) == (frozenset(ROWS[:3]), 3)


def test_a_single_row_is_a_suspect_first(task: Task, judge: Judge) -> None:
    again = dies(judge, task, ROWS[:1])
    assert (again.suspects, dict(again.poison)) == (frozenset(ROWS[:1]), {})


def test_poison_in_many_batches_is_progress_and_not_an_attempt(task: Task, judge: Judge) -> None:
    for number in range(0, 20, 2):
        task = dies(judge, task, ROWS[number : number + 2])
        task = dies(judge, task, ROWS[number : number + 1])
    assert task.poison.keys() == set(ROWS[0:20:2])


def test_a_row_that_dies_alone_without_a_word_is_tried_once_more(task: Task, judge: Judge) -> None:
    """What takes all memory may be a neighbour, and the kernel or Ray's monitor end this process for it."""
    alone = dies(judge, dies(judge, task, ROWS[:3]), ROWS[:1], SILENT)
    assert (alone.doubted, dict(alone.poison)) == (frozenset(ROWS[:1]), {})
    other = dies(judge, alone, ROWS[1:2], SILENT)
    assert not other.poison
    again = dies(judge, other, ROWS[:1], SILENT)
    assert dict(again.poison) == {ROWS[0]: SILENT}


def test_a_machine_without_memory_is_not_tried_row_by_row_for_ever(task: Task, judge: Judge) -> None:
    task = dies(judge, task, ROWS)
    for row in (*ROWS[:POISON_LIMIT], *ROWS[:POISON_LIMIT]):
        task = dies(judge, task, [row], SILENT)
    assert len(task.poison) == POISON_LIMIT
    with pytest.raises(StageError, match=f"more than {POISON_LIMIT} different rows"):
        dies(judge, task, ROWS[-1:], SILENT)


def test_too_many_poison_rows_are_no_longer_the_rows_fault(task: Task, judge: Judge) -> None:
    for row in ROWS[:POISON_LIMIT]:
        task = dies(judge, task, [row])
        task = dies(judge, task, [row], "CUDA error")
    task = dies(judge, task, ROWS[-1:])
    with pytest.raises(StageError, match=f"more than {POISON_LIMIT} different rows") as caught:
        dies(judge, task, ROWS[-1:], "CUDA error")
    assert "CUDA error" in caught.value.evidence
    assert "capfilt resume" in caught.value.remedy
    assert len(task.poison) == POISON_LIMIT


def test_deaths_before_the_first_batch_stop_the_stage_when_nobody_ever_got_further(
    task: Task, judge: Judge
) -> None:
    others = [replace(task, shard=f"000000{number}") for number in range(TRIES)]
    for other in others[:-1]:
        dies(judge, other, [])
    with pytest.raises(StageError, match="before its first batch"):
        dies(judge, others[-1], [])


def test_after_a_success_such_deaths_count_for_their_own_shard_only(task: Task, judge: Judge) -> None:
    judge.praise(task)
    for shard in ("0000001", "0000002", "0000003"):
        assert dies(judge, replace(task, shard=shard), []).attempt == 2
    other = replace(task, shard="0000001")
    dies(judge, other, [])
    with pytest.raises(StageError, match="without progress"):
        dies(judge, other, [])


def test_a_batch_that_differs_each_time_is_not_tried_for_ever(task: Task, judge: Judge) -> None:
    for number in range(TRIES + 2):
        task = dies(judge, task, ROWS[2 * number : 2 * number + 2])
    with pytest.raises(StageError, match="another batch in hand each time"):
        dies(judge, task, ROWS[-2:])
