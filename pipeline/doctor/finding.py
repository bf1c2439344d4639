"""What a check found; and checks that neither end the others nor hang."""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from capfilt.data_contracts.errors import CapfiltError

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it stands, what was found, and what to do about it.

    ``error`` is what an error said is wrong, if it was one.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    error: str = ""

    @classmethod
    def of(cls, name: str, error: CapfiltError, verdict: Verdict = "fail") -> "Finding":
        found = ": ".join(part for part in (error.what, error.evidence) if part)
        return cls(name, verdict, found, error.remedy, error.what)


Check = Callable[[], Iterable[Finding]]


def bounded(name: str, check: Check, seconds: float, late: Verdict = "fail") -> Iterator[Finding]:
    """What a check finds, within a time limit; an error that it raises is a finding as well.

    It runs in a thread that nobody waits for any longer: Python cannot end one that hangs.
    """
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for finding in check():
                found.put(finding)
        except CapfiltError as error:
            found.put(Finding.of(name, error))
        except BaseException as error:  # a panic of a Rust library is no Exception
            found.put(_unexpected(name, error))
        found.put(None)

    threading.Thread(target=work, name=f"doctor {name}", daemon=True).start()
    ends = time.monotonic() + seconds
    while True:
        try:
            finding = found.get(timeout=max(0.0, ends - time.monotonic()))
        except queue.Empty:
            yield Finding(name, late, f"no answer within {seconds:g} s", "see what it waits for")
            return
        if finding is None:
            return
        yield finding


def _unexpected(name: str, error: BaseException) -> Finding:
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = (str(error).strip().splitlines() or [""])[0]
    where = f"{Path(last.filename).name} line {last.lineno}"
    return Finding(name, "fail", f"{type(error).__name__}: {said} ({where})", "mend what the message names")
