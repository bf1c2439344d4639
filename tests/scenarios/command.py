"""The command as a user runs it: a process of its own; and what such runs leave, as tables to compare."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from capfilt.pipeline.commands.cli import main
from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import Folder

LIMIT = 240.0
STAGES = ("ingest", "caption", "score", "select", "export")  # what two runs of one recipe are compared by
# Ray's default is to start a worker for each CPU at once; ours have an environment of their own and never use them.
QUICK_RAY = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
SLOW = {"caption": {"batch": 1}, "score": {"batch": 1}}


@dataclass(frozen=True)
class Ended:
    """A finished command: its exit code, and what it said on both streams."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return " ".join((self.out + self.err).split())


def capfilt(*arguments: object, cwd: Path | None = None, expect: int = 0, **env: str) -> Ended:
    """Run ``capfilt ARGUMENTS`` to its end and see that it gives the expected exit code."""
    with started(*arguments, cwd=cwd, **env) as process:
        out, err = process.communicate(timeout=LIMIT)
    ended = Ended(process.returncode, out, err)
    assert ended.code == expect, f"capfilt {' '.join(map(str, arguments))} gave {ended.code}\n{out}\n{err}"
    return ended


def here(*arguments: object, expect: int = 0) -> Ended:
    """The same in this process, for commands that start nothing: it saves the seconds of importing torch."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["capfilt", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as caught:
            main()
    finally:
        sys.argv = argv
    ended = Ended(int(caught.value.code or 0), out.getvalue(), err.getvalue())
    assert ended.code == expect, f"capfilt {' '.join(map(str, arguments))} gave {ended}"
    return ended


@contextmanager
def started(*arguments: object, cwd: Path | None = None, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a running process; whatever is left of it afterwards is killed."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("capfilt")), *map(str, arguments)],
        cwd=cwd,
        env={**_environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            for pid in (*descendants(process.pid), process.pid):
                kill(pid)


def _environment() -> dict[str, str]:
    """Without what would lead the command to somebody else's cluster, or to the network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **QUICK_RAY, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def kill(pid: int) -> None:
    """SIGKILL, to a process that may be gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def descendants(pid: int) -> dict[int, str]:
    """The command lines of a process's children, and theirs, by process id."""
    listed = subprocess.run(["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    parents: dict[int, tuple[int, str]] = {}
    for line in listed.stdout.splitlines():
        child, parent, *command = line.split(maxsplit=2)
        parents[int(child)] = int(parent), "".join(command)
    found: dict[int, str] = {}
    wanted = [pid]
    while wanted:
        above = wanted.pop()
        for child, (parent, command) in parents.items():
            if parent == above:
                found[child] = command
                wanted.append(child)
    return found


def wait_until(holds: Callable[[], Any], what: str, limit: float = 120.0) -> Any:
    """What ``holds`` gives once that is true."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {limit:g} s for {what}")


def write_recipe(path: Path, recipe: dict[str, Any], **changes: Any) -> Path:
    """A recipe file in its own folder; its run goes to ``runs`` beside it unless it says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"output": "runs", **recipe, **changes}, sort_keys=False))
    return path


def table(run: Path | str, stage: str) -> pa.Table:
    """All rows of a stage of a run in a folder or at a url, sorted by their ids."""
    home = Ledger(run).home(stage)
    parts = [home.storage.read(f"{stage}/{name}") for name, _ in home.index(stage).held().values()]
    rows = pa.concat_tables(pq.read_table(pa.BufferReader(part)) for part in parts)
    known = ("row_id", "pair_id", "caption_index", "step", "name", "image_id", "kind", "text", "word")
    keys = [name for name in known if name in rows.column_names]
    return rows.sort_by([(key, "ascending") for key in keys])


def difference(one: Path | str, other: Path | str, stages: Sequence[str]) -> str:
    """The first column in which two runs' stages differ, floats beyond 1e-4; empty when they are equal."""
    for stage in stages:
        ours, theirs = table(one, stage), table(other, stage)
        if ours.schema != theirs.schema or ours.num_rows != theirs.num_rows:
            return f"{stage}: {ours.num_rows} rows against {theirs.num_rows}, or another schema"
        for name in ours.column_names:
            mine, others = ours[name].to_pylist(), theirs[name].to_pylist()
            if pa.types.is_floating(ours[name].type):
                same = all(_near(a, b) for a, b in zip(mine, others, strict=True))
            else:
                same = mine == others
            if not same:
                return f"{stage}.{name}"
    return ""


def _near(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) <= 1e-4


def snapshot(run: Path, stages: Sequence[str] = ()) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of change of every part of a run, by its path in it."""
    found = {}
    for path in sorted(run.glob("*/part-*.parquet")):
        if not stages or path.parent.name in stages:
            facts = path.stat()
            found[str(path.relative_to(run))] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


def busy(run: Path, stage: str) -> set[int]:
    """The processes that work on the stage at the moment, as the run's lease has it."""
    holder = lease.read(Folder(run))
    return {task.pid for task in holder.running if task.label.startswith(f"{stage}-")} if holder else set()
