"""One clear line a stage: a live bar on a terminal, a summary when it ends, anywhere."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from pipeline.ledger import Ledger, Part
from pipeline.task import Crumb, Task


class Progress:
    """Prints what a run does. ``quiet`` prints nothing."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def skip(self, stage: str, why: str) -> None:
        self.console.print(f"  [dim]{stage:<11} {why}[/dim]", highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, stage: str, ledger: Ledger, rows: int, shards: int) -> Iterator["Bar"]:
        """Shown while a stage runs: rows with rows/s, share kept and time left, or a training's own steps."""
        live = RichProgress(
            TextColumn("  {task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with live:
            bar = Bar(live, live.add_task(stage, total=rows or None, facts=""), ledger)
            yield bar
        self.console.print(
            f"  [green]{stage:<11}[/green] {bar.summary(shards)}", highlight=False, soft_wrap=True
        )


@dataclass
class Bar:
    """The running stage's figures."""

    live: RichProgress
    row: TaskID
    ledger: Ledger
    done: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    text: str = ""
    unit: str = "row"
    started: float = field(default_factory=time.monotonic)

    def watch(self, running: Sequence[Task]) -> None:
        """Read the breadcrumbs of the running tasks."""
        done, total = self.done, 0
        for task in running:
            _, own, total, text = Crumb(task.run, task.label).read()
            done += own
            self.text = text or self.text
        if total and self.live.tasks[self.row].total is None:
            self.live.update(self.row, total=total)
        self.live.update(self.row, completed=done, facts=f"{self._rate(done)} {self._share()} {self.text}")

    def commit(self, part: Part) -> None:
        record = part.record
        if record is None:
            return
        self.done += record.units_in
        self.kept += record.kept
        self.unit = record.unit
        self.rejected.update(record.rejected)
        self.live.update(self.row, completed=self.done)

    def _rate(self, done: int) -> str:
        seconds = time.monotonic() - self.started
        return f"{done / seconds:,.0f}/s" if done and seconds > 1 else ""

    def _share(self) -> str:
        total = self.kept + self.rejected.total()
        return f"{self.kept / total:.0%} kept" if total else ""

    def summary(self, shards: int) -> str:
        seconds = time.monotonic() - self.started
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.most_common())
        parts = [f"{seconds:6.1f} s", f"{self.done:>7,} {self.unit}s", f"{self.kept:>7,} kept"]
        if left:
            parts.append(f"left: {left}")
        if self.text:
            parts.append(self.text)
        return "  ".join(parts)
