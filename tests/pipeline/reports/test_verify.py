import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.verify import verify


def problems(ledger: Ledger) -> list[tuple[str, str]]:
    return [(stage, name) for stage, name, problem in verify(ledger) if problem]


def test_a_sound_run_verifies_wherever_it_lies(finished: Ledger, copied: Ledger) -> None:
    assert problems(finished) == problems(copied) == []
    assert len(list(verify(copied))) == sum(
        len(copied.index(stage).parts()) for stage in copied.record().stages
    )


@pytest.mark.parametrize("change", ["alter", "cut", "delete", "index"])
def test_verify_finds_damage(copied: Ledger, change: str) -> None:
    path = copied.storage.path / "score/part-0000001.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    if change == "delete":
        path.unlink()
    else:
        path.write_bytes({"alter": data, "cut": data[:-4], "index": b""}[change])
    if change == "index":
        (copied.storage.path / "score/_commits/index.parquet").unlink()
    expected = "shard 0000001" if change == "delete" else path.name
    assert problems(copied) == [("score", expected)]


def test_damage_in_one_part_does_not_hide_another(copied: Ledger) -> None:
    names = [f"part-000000{number}.parquet" for number in (0, 2)]
    for name in names:
        with (copied.storage.path / "score" / name).open("r+b") as file:
            file.write(b"XXXX")
    assert problems(copied) == [("score", name) for name in names]
