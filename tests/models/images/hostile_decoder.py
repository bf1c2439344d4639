"""A decoding process that meets images on which a decoder crashes, never ends, or takes all memory."""

import os
import signal
from pathlib import Path
from typing import Any

from PIL import Image

from capfilt.models.images import decode, decoder


def measure(data: bytes, limits: decode.Limits) -> decode.Measured:
    what, _, where = data.partition(b" ")
    if what == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == b"once" and not Path(where.decode()).exists():
        Path(where.decode()).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while what == b"endless":
        pass
    if what == b"memory":
        Image.new("RGB", (60_000, 60_000))
    if what == b"stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    return decode.measure(data, limits) if what != b"once" else decode.Measured("PNG", 1, 1)


def serve(fd: int, limits: dict[str, Any]) -> None:
    decoder.SECONDS = 1
    decoder.serve(fd, limits, measure)
