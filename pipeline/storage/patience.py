"""How long a store or a disk may fail before the run gives up; what is committed stays."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

SECONDS = float(os.environ.get("CAPFILT_STORAGE_PATIENCE", "60"))
PASSING = (errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Give up sooner than usual, because somebody waits for the answer."""
    global SECONDS
    usual, SECONDS = SECONDS, min(SECONDS, seconds)
    try:
        yield
    finally:
        SECONDS = usual


def again(passes: Callable[[BaseException], bool]) -> Retrying:
    """Tries again, with back-off, after errors that may pass, for ``SECONDS`` seconds."""
    return Retrying(
        retry=retry_if_exception(passes),
        stop=stop_after_delay(SECONDS),
        wait=wait_exponential_jitter(multiplier=0.05, max=5.0, jitter=0.1),
        reraise=True,
    )


REMEDIES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "raise the quota or make room",
    errno.EROFS: "mount it for writing, or give another output",
    errno.EACCES: "give this user the right to write there, or give another output",
    errno.EPERM: "give this user the right to write there, or give another output",
}
