from pathlib import Path

import pytest

from capfilt.models.engine.precision import fast_precision


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu avx512f avx512_bf16", "bf16"),
        ("fpu avx512f amx_bf16 amx_tile", "bf16"),
        ("fpu avx2 avx512f", "fp32"),
        ("", "fp32"),
    ],
)
def test_a_cpu_is_asked_what_it_can(tmp_path: Path, flags: str, precision: str) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre\n")
    assert fast_precision(False, info) == precision
    assert fast_precision(True, info) == "bf16"


def test_a_machine_that_does_not_say(tmp_path: Path) -> None:
    assert fast_precision(False, tmp_path / "none") == "fp32"
