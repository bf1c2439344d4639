import gzip
from pathlib import Path

from capfilt.stages.ingest.sources.digest import BLOCK, BLOCKS, digest_of_files


def digest(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return digest_of_files({"name": path})


def test_a_small_file_is_seen_whole(tmp_path: Path) -> None:
    data = bytearray(BLOCK * BLOCKS)
    seen = {digest(tmp_path / "a", bytes(data))}
    for place in (0, len(data) // 2, len(data) - 1):
        changed = data.copy()
        changed[place] = 1
        seen.add(digest(tmp_path / "b", bytes(changed)))
    assert len(seen) == 4
    assert digest(tmp_path / "copy", bytes(data)) in seen
    assert digest(tmp_path / "a", b"") not in seen


def test_of_a_large_file_its_size_its_ends_and_blocks_between_are_seen(tmp_path: Path) -> None:
    data = bytearray(10 * BLOCK * BLOCKS)
    before = digest(tmp_path / "a", bytes(data))
    assert digest(tmp_path / "a", bytes(data) + b"\n") != before
    for place in (0, BLOCK - 1, 1 * (len(data) - BLOCK) // (BLOCKS - 1), len(data) - BLOCK, len(data) - 1):
        changed = data.copy()
        changed[place] = 1
        assert digest(tmp_path / "a", bytes(changed)) != before
    changed = data.copy()
    changed[2 * BLOCK] = 1  # as its docstring admits
    assert digest(tmp_path / "a", bytes(changed)) == before


def test_any_change_of_a_large_gzip_is_seen(tmp_path: Path) -> None:
    import random

    data = bytearray(random.Random(0).randbytes(3 * BLOCK * BLOCKS))
    before = digest(tmp_path / "a", gzip.compress(bytes(data), mtime=0))
    data[2 * BLOCK + 5] ^= 1
    assert digest(tmp_path / "a", gzip.compress(bytes(data), mtime=0)) != before


def test_names_count_and_their_order_does_not_hide_a_swap(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    a, b = tmp_path / "a", tmp_path / "b"
    assert (
        len({digest_of_files({"x": a, "y": b}), digest_of_files({"x": b, "y": a}), digest_of_files({"x": a})})
        == 3
    )
