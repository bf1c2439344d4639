"""One clear line a stage: live bars on a terminal, a summary when a stage ends, anywhere."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from pipeline.index import Part
from pipeline.lease import Doing
from pipeline.task import Crumb, Task


@dataclass
class _Bar:
    """A stage's figures so far. ``shards`` is null for a global stage."""

    row: TaskID
    shards: int | None
    ended: int = 0
    rows: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    others: int = 0
    seconds: float = 0.0
    text: str = ""
    unit: str = "row"
    started: float = field(default_factory=time.monotonic)

    def facts(self) -> str:
        seconds, total = time.monotonic() - self.started, self.kept + self.rejected.total()
        rate = f"{self.rows / seconds:,.0f} {self.unit}s/s" if self.rows and seconds > 1 else ""
        return " ".join(
            part for part in (rate, f"{self.kept / total:.0%} kept" if total else "", self.text) if part
        )

    def summary(self) -> str:
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.most_common())
        # of work: stages overlap, so the time since a stage began says little about it
        parts = [f"{self.seconds:6.1f} s", f"{self.rows:>7,} {self.unit}s", f"{self.kept:>7,} kept"]
        if left:
            parts.append(f"left: {left}")
        if self.others:
            parts.append(f"{self.others} committed by another attempt")
        return "  ".join([*parts, self.text] if self.text else parts)


class Progress:
    """Prints what a run does."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: RichProgress | None = None
        self._bars: dict[str, _Bar] = {}
        self._running: tuple[Doing, ...] = ()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def skip(self, stage: str, why: str) -> None:
        self.console.print(f"  [dim]{stage:<11} {why}[/dim]", highlight=False, soft_wrap=True)

    @property
    def running(self) -> tuple[Doing, ...]:
        """What runs at the moment, for whoever asks from another thread."""
        return self._running

    @contextmanager
    def live(self) -> Iterator[None]:
        """While a run runs: a bar for every stage that has begun and not ended."""
        columns = (
            TextColumn("  {task.description:<11}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
        )
        quiet = not self.console.is_terminal
        with RichProgress(*columns, console=self.console, transient=True, disable=quiet) as self._live:
            yield
        self._bars.clear()

    def begin(self, stage: str, shards: int | None) -> None:
        """A stage's first task has been handed out."""
        if stage not in self._bars and self._live is not None:
            row = self._live.add_task(stage, total=shards or None, facts="")
            self._bars[stage] = _Bar(row, shards)

    def watch(self, running: Mapping[str, tuple[Task, int]], crumbs: Mapping[str, Crumb]) -> None:
        """What runs and how far it is: shards that are done, and shares of those in hand."""
        self._running = tuple(
            Doing(label=label, pid=pid, done=crumb.done, total=crumb.total, text=crumb.text)
            for label, (_, pid) in running.items()
            for crumb in [crumbs.get(label, Crumb())]
        )
        shares: Counter[str] = Counter()
        for label, (task, _) in running.items():
            crumb = crumbs.get(label, Crumb())
            if bar := self._bars.get(task.name):
                bar.text = crumb.text or bar.text
                if bar.shards is None and crumb.total and self._live is not None:
                    self._live.update(bar.row, total=crumb.total, completed=crumb.done, facts=crumb.text)
                elif crumb.total:
                    shares[task.name] += crumb.done / crumb.total  # type: ignore[assignment]  # a sum of shares
        for stage, bar in self._bars.items():
            if bar.shards is not None and self._live is not None:
                self._live.update(bar.row, completed=bar.ended + shares[stage], facts=bar.facts())

    def commit(self, stage: str, part: Part, won: bool = True) -> None:
        """A part stands; ``won`` says whether this runner wrote it."""
        bar, record = self._bars.get(stage), part.record
        if bar is None or record is None:
            return
        bar.ended += 1
        bar.others += not won
        bar.rows += record.units_in
        bar.kept += record.kept
        bar.unit = record.unit
        bar.seconds += record.seconds
        bar.rejected.update(record.rejected)

    def end(self, stage: str) -> None:
        """The stage is complete: its bar goes, its line stays."""
        bar = self._bars.pop(stage, None)
        if bar is not None:
            if self._live is not None:
                self._live.remove_task(bar.row)
            self.console.print(
                f"  [green]{stage:<11}[/green] {bar.summary()}", highlight=False, soft_wrap=True
            )
