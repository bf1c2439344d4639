"""Decode images in a process that may die: a decoder is native code that is fed by strangers.

The process loads Pillow and nothing else of weight, may take so much memory and so much processor time, and has a
pair of sockets to its owner alone: whatever happens to it, one image is in its hand, and that one leaves. It ends
when the other side of its socket is gone, so it does not outlive its owner.

Not a pool of multiprocessing: that imports its parent's main module again (in a Ray worker: all of Ray), and its
workers share a pipe, which one that dies while it reads leaves with half an image in it.
"""

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import NamedTuple

from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.rejects import Reason
from capfilt.models.images.decode import Limits, Measured, UndecodableImage, measure

SECONDS = 60  # of processor time for one image: several times what the largest one takes
PATIENCE = 300  # seconds of the clock until an answer has to be there, or an image to be taken
TRIES = 3  # of starting the process
AHEAD = 8  # images on their way to the process: it need not wait for the next one
_PIXEL, _REST = 24, 2**30  # bytes: of all copies of a pixel on its way to RGB; of everything else
_ANSWER = 4096  # bytes at most
_READY = b"ready"
CHILD = "import json, sys; from capfilt.models.images.decoder import serve; serve(**json.loads(sys.argv[1]))"


class Refused(NamedTuple):
    """Why bytes are no image that can be used."""

    reason: Reason
    detail: str


Verdict = Measured | Refused


def memory_of(limits: Limits) -> int:
    """The address space in bytes that the process may take."""
    return _PIXEL * limits.max_pixels + _REST


def serve(fd: int, limits: dict[str, float], measure: Callable[[bytes, Limits], Measured] = measure) -> None:
    """The process: answers every image that comes in at the socket ``fd``, in order, until that is closed."""
    own = Limits(**limits)  # type: ignore[arg-type]  # as JSON has them
    memory = memory_of(own)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for its owner
    warnings.simplefilter("ignore")
    with Connection(fd) as owner, suppress(EOFError, ConnectionError):
        owner.send_bytes(_READY)
        while True:
            data = owner.recv_bytes()
            # Ends the process, also within native code; of its own time, so that a busy machine is no reason.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            owner.send_bytes(json.dumps(_judge(data, own, measure)).encode())
            signal.setitimer(signal.ITIMER_PROF, 0)


def _judge(
    data: bytes, limits: Limits, measure: Callable[[bytes, Limits], Measured]
) -> tuple[str, str] | Measured:
    try:
        return measure(data, limits)
    except UndecodableImage as error:
        return error.reason, str(error)
    except MemoryError:
        return Reason.DECODER_DIED, f"it needs more than {memory_of(limits) // 10**6:,} MB to be decoded"


class Decoder:
    """Measures images in a process of its own, which is started when it is needed and again when it died."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def __call__(self, images: Sequence[bytes]) -> list[Verdict]:
        """What each image is, or why it is none.

        An image whose process dies or hangs gets another one to itself, since it may be a bystander (of a machine
        without memory, of an impatient hand); after the second death, or once it has used up its time, it is refused.

        Raises:
            StageError: the process dies again and again before it gets as far as an image.
        """
        verdicts: list[Verdict] = []
        died = -1
        while len(verdicts) < len(images):
            ahead = 1 if died == len(verdicts) else AHEAD
            try:
                for verdict in self._ask(images[len(verdicts) :], ahead):
                    verdicts.append(verdict)  # noqa: PERF402 (a death must not lose those before it)
            except (OSError, EOFError, ValueError) as error:  # dead, or it says what makes no sense
                words, final = self._quarantine(error)
                if final or died == len(verdicts):
                    verdicts.append(Refused(Reason.DECODER_DIED, words))
                else:
                    died = len(verdicts)
        return verdicts

    def _ask(self, images: Sequence[bytes], ahead: int) -> Iterator[Verdict]:
        connection = self._connection if self._process else self._start()
        sent = 0
        for answered in range(len(images)):
            with suppress(ConnectionError):  # what it had answered before it died can still be read
                while sent < min(answered + ahead, len(images)):
                    connection.send_bytes(images[sent])
                    sent += 1
            answer = json.loads(connection.recv_bytes(_ANSWER))
            yield Measured(*answer) if len(answer) == 3 else Refused(Reason(answer[0]), answer[1])

    def _start(self) -> Connection:
        for _ in range(TRIES):
            connection = self._launch()
            try:
                connection.recv_bytes(len(_READY))
                return connection
            except (OSError, EOFError) as error:
                evidence, _ = self._quarantine(error)
        raise StageError(
            what="the process that decodes images does not start",
            evidence=evidence,
            remedy=f"run {sys.executable} -c 'import {__name__}', which shows why; is memory left on this machine?",
        )

    def _launch(self) -> Connection:
        mine, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # then a stopped process cannot hold us up
            mine.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))
        own = {"fd": theirs.fileno(), "limits": asdict(self._limits)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, json.dumps(own)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # native decoders complain there
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._connection = Connection(mine.detach())
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        return self._connection

    def _quarantine(self, error: Exception) -> tuple[str, bool]:
        """How the process died, and whether that is the image's fault for sure."""
        process, self._process = self._process, None
        assert process is not None
        if isinstance(error, BlockingIOError):
            words = f"the process that decoded it gave no answer for {PATIENCE} s"
            self._end()
            return words, True
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)  # it has closed its socket: it is ending
        code = process.returncode
        self._end()
        if code == -signal.SIGPROF:
            return f"not decoded after {SECONDS} s of processor time", True
        if code is not None and code < 0:
            return f"the process that decoded it died of {signal.Signals(-code).name}", False
        return f"the process that decoded it ended with code {code}", False


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()
