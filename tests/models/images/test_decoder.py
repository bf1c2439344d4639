import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.rejects import Reason
from capfilt.models.images import decoder
from capfilt.models.images.decode import Limits, Measured, UndecodableImage, measure
from capfilt.models.images.decoder import Decoder, Refused, Verdict

LIMITS = Limits(min_side=1)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = encode(Image.effect_noise((40, 30), 50))
WELL = Measured("PNG", 40, 30)


@pytest.fixture
def decode() -> Decoder:
    return Decoder(LIMITS)


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    """Its process dies, hangs and swells when it is told to."""
    code = decoder.CHILD.replace(
        "from capfilt.models.images.decoder import", "from tests.models.images.hostile_decoder import"
    )
    assert code != decoder.CHILD
    monkeypatch.setattr(decoder, "CHILD", code)
    return Decoder(LIMITS)


def here(data: bytes) -> Verdict:
    try:
        return measure(data, LIMITS)
    except UndecodableImage as error:
        return Refused(error.reason, str(error))


def test_what_the_process_says_is_what_decoding_here_says(decode: Decoder) -> None:
    pictures = [
        encode(Image.effect_noise((50, 9 + n), 60), kind)
        for n, kind in enumerate(["JPEG", "PNG", "GIF"] * 30)
    ]
    pictures[7:7] = [b"", b"<html>", GOOD[:-30], GOOD[:40], bytes(3_000_000)]
    assert decode(pictures) == [here(data) for data in pictures]
    assert decode([]) == []


def gif_of(width: int, height: int) -> bytes:
    data = encode(Image.new("P", (9, 9)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def webp_of(width: int, height: int) -> bytes:
    data = encode(Image.new("RGB", (9, 9)), "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    (bits,) = struct.unpack("<I", data[at : at + 4])
    return data[:at] + struct.pack("<I", bits >> 28 << 28 | (height - 1) << 14 | width - 1) + data[at + 4 :]


WIDE = Image.new("1", (20_000, 20_000))
BOMBS = {
    "png": (encode(WIDE), Reason.TOO_MANY_PIXELS),
    "tiff": (encode(WIDE, "TIFF", compression="group4"), Reason.TOO_MANY_PIXELS),
    "gif": (gif_of(65_000, 65_000), Reason.TOO_MANY_PIXELS),
    "webp": (webp_of(16_384, 16_384), Reason.TOO_MANY_PIXELS),
    "line": (encode(Image.new("1", (1, 65_535))), Reason.ASPECT),
    "cut": (GOOD[: len(GOOD) // 2], Reason.UNREADABLE),
    "none": (b"", Reason.UNREADABLE),
}


def test_bombs_are_refused_by_their_header_in_little_memory(decode: Decoder) -> None:
    given = [data for bomb, _ in BOMBS.values() for data in (bomb, GOOD)]
    answers = decode(given)
    assert answers[1::2] == [WELL] * len(BOMBS)
    reasons = [answer.reason for answer in answers[::2] if isinstance(answer, Refused)]
    assert dict(zip(BOMBS, reasons, strict=True)) == {name: reason for name, (_, reason) in BOMBS.items()}
    assert decode._process is not None
    status = Path(f"/proc/{decode._process.pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])
    assert peak < 200_000, f"{peak} kB"


@pytest.mark.parametrize(
    ("poison", "words"),
    [(b"crash", "SIGSEGV"), (b"endless", "1 s of processor time"), (b"memory", "more than 3,221 MB")],
)
def test_a_poison_image_takes_no_neighbour_along(hostile: Decoder, poison: bytes, words: str) -> None:
    before = time.monotonic()
    good, bad = hostile([GOOD, GOOD, poison, GOOD]), hostile([poison])
    assert good[:2] == [WELL, WELL]
    assert good[3:] == [WELL]
    for answer in (good[2], *bad):
        assert isinstance(answer, Refused)
        assert answer.reason is Reason.DECODER_DIED
        # SECONDS is the process's own here, so that the sentence tells the owner's
        assert words.replace("1 s of", f"{decoder.SECONDS} s of") in answer.detail
    assert time.monotonic() - before < 30


def test_every_one_of_many_poison_images_leaves_alone(hostile: Decoder) -> None:
    answers = hostile([b"crash", b"crash", GOOD, b"crash", GOOD])
    assert [isinstance(answer, Refused) for answer in answers] == [True, True, False, True, False]


def test_a_bystander_of_a_death_is_decoded_again(hostile: Decoder, tmp_path: Path) -> None:
    assert hostile([GOOD, b"once %s" % bytes(tmp_path / "seen"), GOOD]) == [WELL, Measured("PNG", 1, 1), WELL]


def test_a_process_that_is_stopped_is_not_waited_for(
    hostile: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "PATIENCE", 2)
    stopped, after = hostile([b"stop", GOOD])
    assert isinstance(stopped, Refused)
    assert "no answer for 2 s" in stopped.detail
    assert after == WELL


def test_killed_again_and_again_from_outside_while_it_decodes(decode: Decoder) -> None:
    """Every row gets an answer, in its place, and only what was in hand twice is refused."""
    slow = encode(Image.effect_noise((1500, 1500), 50))
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.4):
            if (process := decode._process) is not None and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        answers = decode([slow, b"<html>"] * 20)
    finally:
        done.set()
        killer.join()
    assert len(answers) == 40
    for large, page in zip(answers[::2], answers[1::2], strict=True):
        assert large == Measured("PNG", 1500, 1500) or (
            isinstance(large, Refused) and "SIGKILL" in large.detail
        )
        assert isinstance(page, Refused)
    assert sum(isinstance(answer, Measured) for answer in answers) > 10


def test_a_process_that_cannot_start_condemns_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "CHILD", "raise SystemExit(3)")
    with pytest.raises(StageError, match="code 3"):
        Decoder(LIMITS)([GOOD])


def gone(pid: int) -> bool:
    with_state = Path(f"/proc/{pid}/stat")
    return not with_state.exists() or with_state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def wait(until: Iterator[bool]) -> bool:
    end = time.monotonic() + 20
    return any(found or time.monotonic() > end or time.sleep(0.05) for found in until) and next(until)


OWNER = """
import sys
from capfilt.models.images.decode import Limits
from capfilt.models.images.decoder import Decoder
decode = Decoder(Limits())
decode([b"x"])
print(decode._process.pid, sorted(name for name in sys.modules if name in ("torch", "ray", "numpy")), flush=True)
sys.stdin.read()
"""


def test_it_ends_with_its_owner_and_loads_little() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, modules = owner.stdout.readline().split(" ", 1)
        assert modules.strip() == "[]"
        assert not gone(int(pid))
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        owner.send_signal(signal.SIGKILL)
    assert wait(gone(int(pid)) for _ in iter(int, 1))


def test_it_ends_when_nobody_has_its_decoder_any_more() -> None:
    decode = Decoder(LIMITS)
    decode([GOOD])
    assert decode._process is not None
    pid = decode._process.pid
    del decode
    assert wait(gone(pid) for _ in iter(int, 1))
