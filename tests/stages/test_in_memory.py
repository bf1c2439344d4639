import pytest

from capfilt.data_contracts.records import Caption, IngestedImage
from capfilt.stages.in_memory import MemoryInput
from tests.stages.rows import caption, picture


def test_rows_by_their_kind() -> None:
    inputs = MemoryInput.of(picture(1), picture(2), picture(3), caption(1, "a"))
    assert [batch.num_rows for batch in inputs.stream(IngestedImage, 2)] == [2, 1]
    assert inputs.table(IngestedImage, ["url"]).to_pylist() == [
        {"url": f"{number}.png"} for number in (1, 2, 3)
    ]
    assert [part.num_rows for part in inputs.parts(Caption)] == [1]


def test_an_empty_part_is_there_and_an_absent_one_is_not() -> None:
    inputs = MemoryInput.of(picture(1), empty=[Caption])
    assert inputs.has(Caption)
    assert inputs.table(Caption).num_rows == 0
    absent = MemoryInput.of(picture(1))
    assert not absent.has(Caption)
    with pytest.raises(KeyError):
        absent.table(Caption)
