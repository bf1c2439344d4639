"""Which arithmetic this machine is fast at. Imports no torch: the planner asks, too."""

import re
from pathlib import Path

from capfilt.models.protocols import Precision

_FAST_BF16 = {"avx512_bf16", "amx_bf16"}


def fast_precision(gpu: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> Precision:
    """``bf16`` where matrix products in it are about twice as fast as in ``fp32``: GPUs, CPUs with AVX512-BF16
    or AMX. ``int8`` is never chosen: its drift is for the user to accept."""
    if gpu:
        return "bf16"
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        return "fp32"
    return "bf16" if flags and _FAST_BF16 & set(flags[1].split()) else "fp32"
