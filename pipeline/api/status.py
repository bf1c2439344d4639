"""How far a run is, and whether somebody is at work in it: `capfilt status`, from the run's storage alone."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from capfilt.data_contracts.errors import SourceError, StageError
from capfilt.pipeline.ledger import lease, submission
from capfilt.pipeline.ledger.lease import Holder
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.ledger.submission import Submission
from capfilt.pipeline.reports import stages
from capfilt.pipeline.reports.stages import StageView
from capfilt.pipeline.reports.visible import visible
from capfilt.pipeline.watching import log

QUIET = 60.0  # seconds: a job may be on its way
EVERY = 2.0  # seconds between two looks


@dataclass(frozen=True)
class RunStatus:
    """A run as it stands: its stages, who is at work in it, and the job that was last submitted.

    ``last`` is the last line of the run's log, where nobody is at work. ``coming``: the job has not begun yet.
    """

    url: str
    stages: tuple[StageView, ...]
    holder: Holder | None
    submission: Submission | None
    last: dict[str, Any] | None
    coming: bool

    @property
    def complete(self) -> bool:
        return all(stage.complete for stage in self.stages)

    @property
    def ended(self) -> dict[str, Any] | None:
        """The line with which the last runner ended, if it did and no job is coming."""
        return self.last if self.last and not self.coming and self.last["event"] == "run_ended" else None

    @property
    def ending(self) -> str:
        """How a runner that is gone left, by the last line of its log; empty when there is none."""
        if not self.last:
            return ""
        moment, message = self.last["time"], self.last["message"]
        if self.last["event"] == "run_ended":
            return visible(f"its last runner ended at {moment}: {message}")
        return visible(f"its last runner was killed; its last word, at {moment}: {message}")


def status(ledger: Ledger) -> RunStatus:
    """How a run stands.

    Raises:
        SourceError: there is no run, or a job that was submitted ended before it was one.
    """
    views, holder = stages.stages(ledger), stages.running(ledger)
    sent, last = submission.read(ledger.storage), None if holder else log.last(ledger)
    coming = sent is not None and (last is None or last["time"] < sent.submitted)
    return RunStatus(ledger.url, tuple(views), holder, sent, last, coming)


def demand_begun(ledger: Ledger) -> None:
    """Raise :class:`SourceError` for a run that was submitted, and whose job ended before it was one."""
    if not ledger.exists and (sent := submission.read(ledger.storage)):
        raise SourceError(
            what=f"{ledger.url} has not begun",
            evidence=f"it was submitted at {sent.submitted} to {sent.address}, as {sent.job}",
            remedy=f"capfilt logs {ledger.url} --job tells what the job said; then submit it again",
        )


def follow(ledger: Ledger, name: str = "") -> Iterator[RunStatus]:
    """How a run stands, again and again, until it is complete or its runner has done what it was asked for.

    ``name`` is what the user calls the run.

    Raises:
        SourceError: as :func:`status`.
        StageError: nobody is at work in the run any more.
    """
    seen, since = None, time.monotonic()
    while True:
        now = status(ledger)
        if now.holder != seen:
            seen, since = now.holder, time.monotonic()
        yield now
        if now.complete or (now.ended and now.ended["level"] == "info"):
            return
        quiet = QUIET if now.coming or now.holder else lease.STALE
        if now.ended or time.monotonic() - since > quiet:
            run = name or now.url
            raise StageError(
                what=f"nobody is at work in {now.url}",
                evidence=now.ending,
                remedy=f"capfilt logs {run} tells more; capfilt resume {run}, or submitting it again, carries on",
            )
        time.sleep(EVERY)
