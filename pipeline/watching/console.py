"""One clear line a stage: live bars on a terminal, a summary when a stage ends, anywhere."""

import time
from collections import Counter
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

from capfilt.pipeline.execution.events import (
    Committed,
    Event,
    Listener,
    Message,
    PartQuarantined,
    ProgressSeen,
    StageBegun,
    StageEnded,
    StageSkipped,
    Waiting,
)
from capfilt.pipeline.ledger.commit_index import Part


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
    figures: bool = False
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
        # The last word on the way is stale, but for a training's: it tells its figures.
        return "  ".join([*parts, self.text] if self.figures else parts)


class Progress(Listener):
    """Prints what a run does; on a terminal, with a bar for every stage that has begun and not ended."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("  {task.description:<11}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
        )
        quiet = not console.is_terminal
        self._live = RichProgress(*columns, console=console, transient=True, disable=quiet)
        self._bars: dict[str, _Bar] = {}

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def hear(self, event: Event) -> None:
        match event:
            case Message(text=text):
                self._say(text)
            case PartQuarantined(stage=stage, part=part, why=why) if why:
                self._say(f"  {stage}/{part} is damaged ({why}): set aside, its shard is redone")
            case Waiting():
                for line, _ in event.lines():
                    self._say(f"  {line}")
            case StageSkipped(stage=stage, why=why):
                self.console.print(f"  [dim]{stage:<11} {why}[/dim]", highlight=False, soft_wrap=True)
            case StageBegun(stage=stage, shards=shards) if stage not in self._bars:
                row = self._live.add_task(stage, total=shards or None, facts="")
                self._bars[stage] = _Bar(row, shards)
            case ProgressSeen():
                self._look(event)
            case Committed(task=task, parts=parts) if bar := self._bars.get(task.name):
                for one, won in parts:
                    self._count(bar, one, won)
            case StageEnded(stage=stage) if bar := self._bars.pop(stage, None):
                self._live.remove_task(bar.row)
                self.console.print(
                    f"  [green]{stage:<11}[/green] {bar.summary()}", highlight=False, soft_wrap=True
                )

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _look(self, looked: ProgressSeen) -> None:
        """Shards that are done, and shares of those in hand."""
        shares: Counter[str] = Counter()
        for task, _, heartbeat in looked.each():
            if bar := self._bars.get(task.name):
                bar.text = heartbeat.text or bar.text
                bar.figures = bar.figures or bool(heartbeat.figures)
                if bar.shards is None and heartbeat.total:
                    self._live.update(
                        bar.row, total=heartbeat.total, completed=heartbeat.done, facts=heartbeat.text
                    )
                elif heartbeat.total:
                    shares[task.name] += heartbeat.done / heartbeat.total  # type: ignore[assignment]  # a sum of shares
        for stage, bar in self._bars.items():
            if bar.shards is not None:
                self._live.update(bar.row, completed=bar.ended + shares[stage], facts=bar.facts())

    @staticmethod
    def _count(bar: _Bar, part: Part, won: bool) -> None:
        if record := part.record:
            bar.ended += 1
            bar.others += not won
            bar.rows += record.units_in
            bar.kept += record.kept
            bar.unit = record.unit
            bar.seconds += record.seconds
            bar.rejected.update(record.rejected)
