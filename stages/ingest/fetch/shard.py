"""Fetch one shard: start the child, watch it, start it again if it dies, and give every row its end."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from capfilt.data_contracts.errors import StageError
from capfilt.data_contracts.fingerprint import fingerprint, identity_of
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.child import CANNOT_WRITE
from capfilt.stages.ingest.fetch.error import FetchError
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.spool import SpoolReader
from capfilt.stages.ingest.fetch.takedown import TakeDown
from capfilt.stages.ingest.fetch.url import Url

_LOOK = 0.25  # seconds between looks at a child
_FRUITLESS = 3  # lives in a row without a finished or begun row, after which it is not the rows' fault
FEW = 200  # rows: of fewer a rate says little
_TOGETHER = 2  # deaths with others in hand, after which a row is fetched alone


@dataclass(frozen=True)
class Fetched:
    """A row's end: its bytes, or the reason why it has none."""

    row_id: str
    data: bytes | None
    reason: Reason | None
    detail: str


def fetch(
    rows: Sequence[tuple[str, str]],
    policy: FetchPolicy,
    folder: Path,
    progress: Callable[[int, int, str], None],
    promised: float = 0.0,
) -> Iterator[Fetched]:
    """One :class:`Fetched` a row of (row_id, url), in their order, when all have ended; bytes one row at a time.

    ``folder`` is on a local disk and holds the fetched bytes. When it survives a death of this process, rows
    that were finished are not fetched again: their spool is found by the rows and the policy's identity, and by
    nothing else. Equal urls are fetched once. ``promised`` is the share of urls that can be had, by a sample.

    Raises:
        StageError: the child cannot work at all: it dies before it begins a row, or cannot write; or less than half
            of what was ``promised`` succeeds. What was fetched then is forgotten, as are its failures.
    """
    place = folder / fingerprint([identity_of(policy), [list(row) for row in rows]])
    place.mkdir(parents=True, exist_ok=True)
    urls = list(dict.fromkeys(url.strip() for _, url in rows))
    ended = _refused(urls, policy)
    numbers = {url: number for number, url in enumerate(urls)}
    with closing(SpoolReader(place / "spool")) as spool:
        spool.mend(compare=True)
        shard = _Shard(urls, policy, place, spool, ended, progress, promised)
        try:
            shard.run()
        finally:
            if shard.belied:  # or a resume would find the failures, and believe them
                shutil.rmtree(place, ignore_errors=True)
        for row_id, url in rows:
            number = numbers[url.strip()]
            data, fetch_error = (None, ended[number]) if number in ended else spool.read(number)
            reason, detail = (fetch_error.reason, fetch_error.detail) if fetch_error else (None, "")
            yield Fetched(row_id, data, reason, detail)


def _refused(urls: Sequence[str], policy: FetchPolicy) -> dict[int, FetchError]:
    """What needs no request to be refused."""
    takedown = policy.takedown.load() if policy.takedown else TakeDown()
    refused = {}
    for number, url in enumerate(urls):
        try:
            Url.parse(url)
            if takedown.refuses(url):
                refused[number] = FetchError(Reason.TAKEN_DOWN, "in the list")
        except FetchError as fetch_error:
            refused[number] = fetch_error
    return refused


class _Shard:
    """``ended`` gains the rows that no child finished: dead ones and those whose time was up.

    ``belied`` once far fewer rows have succeeded than was promised.
    """

    def __init__(
        self,
        urls: Sequence[str],
        policy: FetchPolicy,
        place: Path,
        spool: SpoolReader,
        ended: dict[int, FetchError],
        progress: Callable[[int, int, str], None],
        promised: float,
    ) -> None:
        self._urls, self._policy, self._spool, self._ended = urls, policy, spool, ended
        self._progress, self._promised, self.belied = progress, promised, False
        self._place, self._heartbeats, self._log = place, place / "heartbeats", place / "log"
        self._ends = time.monotonic() + policy.shard_deadline
        # neighbours in a list share a host: apart they keep all threads busy
        self._order = random.Random(0).sample(range(len(urls)), len(urls))

    def run(self) -> None:
        deaths: Counter[int] = Counter()
        fruitless = 0
        while rows := self._left():
            if time.monotonic() >= self._ends:
                for number in rows:
                    self._ended[number] = FetchError(Reason.DEADLINE, f"{self._policy.shard_deadline:g} s")
                break
            alone = [number for number in rows if deaths[number] >= _TOGETHER]
            before = len(self._spool)
            code = self._live(alone or rows, 1 if alone else self._policy.threads)
            begun = self._begun()
            in_hand = [number for number in begun if number not in self._spool]
            if code == CANNOT_WRITE:
                raise self._cannot("could not write what it fetched")
            if code is None:
                continue
            deaths.update(in_hand)
            if alone and in_hand:
                self._ended[in_hand[-1]] = FetchError(Reason.FETCH_DIED, _how(code))
            fruitless = 0 if in_hand or len(self._spool) > before else fruitless + 1
            if fruitless == _FRUITLESS:
                raise self._cannot(f"ended {_FRUITLESS} times before it began a row ({_how(code)})")
        self._demand()

    def _demand(self) -> None:
        """Once half of the rows have ended, so many must have succeeded that the sample is not belied."""
        ended = len(self._spool) + len(self._ended)
        if ended < max(FEW, len(self._urls) / 2) or self._spool.whole >= self._promised / 2 * ended:
            return
        reasons = Counter(fetch_error.reason for fetch_error in self._ended.values())
        reasons += Counter(self._spool.reasons())
        self.belied = True
        raise StageError(
            what=f"the web has stopped answering: {self._spool.whole} of {ended} urls of a shard were fetched, "
            f"and {self._promised:.0%} of the sample",
            evidence=", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5)),
            remedy="see to the network and its name server, or lower FetchPolicy.threads; then resume",
        )

    def _left(self) -> list[int]:
        return [number for number in self._order if number not in self._spool and number not in self._ended]

    def _live(self, rows: Sequence[int], threads: int) -> int | None:
        """One life of a child: its exit code, or ``None`` when the shard's time ended it."""
        (self._place / "job.json").write_text(
            json.dumps(
                {
                    "parent": os.getpid(),
                    "seconds": max(1.0, self._ends - time.monotonic() + 10),
                    "policy": dataclasses.asdict(self._policy),
                    "rows": [(number, self._urls[number]) for number in rows],
                    "threads": threads,
                }
            )
        )
        self._heartbeats.write_text("")
        with self._log.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "capfilt.stages.ingest.fetch.child", str(self._place)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        try:
            return self._watch(child)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            self._spool.mend()

    def _watch(self, child: subprocess.Popen[bytes]) -> int | None:
        while (left := self._ends - time.monotonic()) > 0:
            try:
                return child.wait(min(_LOOK, left))
            except subprocess.TimeoutExpired:
                self._spool.scan()
                self._demand()
                self._progress(len(self._spool) + len(self._ended), len(self._urls), "fetched")
        return None

    def _begun(self) -> list[int]:
        """The rows that the last child began and did not put off, the latest last. A torn line does not count."""
        begun: dict[int, None] = {}
        for line in self._heartbeats.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                begun.pop(int(line[1:]), None)
                if line[0] == "+":
                    begun[int(line[1:])] = None
        return list(begun)

    def _cannot(self, what: str) -> StageError:
        return StageError(
            what=f"the process that fetches {what}",
            evidence=self._log.read_text(errors="replace")[-2000:].strip(),
            remedy="see the evidence: a full disk, memory, or the installation; then resume",
        )


def _environment() -> dict[str, str]:
    """Ours without proxies: a proxy resolves names itself and would void the check of addresses."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONUNBUFFERED": "1"}


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
