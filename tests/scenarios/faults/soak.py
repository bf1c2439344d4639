"""Random kills over a whole demo: `make soak`, or `python -m tests.scenarios.faults.soak --kills 20 --seed 0 --out
DIR`.

Kills, by SIGKILL and by a seed: the driver, a worker at its task, the trainer, the raylet with everything on it.
After each death of the command the run is resumed. In the end nothing may be lost and nothing there twice.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from capfilt.data_contracts.contract import Contract
from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.reports.query import files, query
from capfilt.pipeline.reports.verify import verify
from capfilt.pipeline.storage import Folder
from tests.scenarios.command import descendants, kill

TRAININGS = ("warmup", "pretrain", "filter", "captioner")
KINDS = ("driver", "worker", "trainer", "raylet")


def victim(kind: str, process: subprocess.Popen[bytes], run: Path) -> int | None:
    """The process to kill; ``None`` when there is no such one at the moment."""
    if kind == "driver":
        return process.pid
    if kind == "raylet":
        return next((p for p, what in descendants(process.pid).items() if "raylet/raylet" in what), None)
    holder = lease.read(Folder(run))
    tasks = holder.running if holder else ()
    training = [task.pid for task in tasks if task.label in TRAININGS]
    return next(iter(training if kind == "trainer" else [task.pid for task in tasks]), None)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    draw = random.Random(given.seed)
    run = given.out / "run"
    command = [str(Path(sys.executable).with_name("capfilt")), "demo", "--out", str(given.out)]
    kills: Counter[str] = Counter()
    starts = 0
    while True:
        starts += 1
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        while process.poll() is None and kills.total() < given.kills:
            time.sleep(draw.uniform(3, 25))
            kind = draw.choice(KINDS)
            if process.poll() is None and (pid := victim(kind, process, run)):
                below = descendants(process.pid)
                kill(pid)
                kills[kind] += 1
                print(f"{kills.total():>3}  killed {kind} {pid}", flush=True)
                if kind == "driver":
                    for child in below:
                        kill(child)
        if process.wait() == 0:
            break
        time.sleep(1)
    report(Ledger(run), kills, starts)


def report(ledger: Ledger, kills: Counter[str], starts: int) -> None:
    """What the kills cost, and whether anything is lost or there twice; exit code 1 if so."""
    plan = Plan(parse(ledger.record().recipe))
    lost = twice = redone = 0
    for node in plan:
        for part in ledger.index(node.name).parts().values():
            if part.record:
                redone += part.record.attempt - 1
                left = sum(part.record.rejected.values())
                lost += part.record.units_in * part.record.fan_out - part.record.kept - left
        key = ", ".join(Contract(node.stage.produces).record.key)
        every = f"SELECT count(*) - count(DISTINCT ({key})) AS twice FROM files"
        if key and node.name not in TRAININGS:
            twice += sum(row["twice"] for row in query(every, files(ledger, node.name)))
    bad = [entry for entry in verify(ledger) if entry[2]]
    named = ", ".join(f"{count} {kind}" for kind, count in kills.items())
    print(f"kills {kills.total()} ({named}), starts {starts}, shards tried again in a run {redone}")
    print(f"lost rows {lost}, duplicate rows {twice}, damaged files {len(bad)}")
    sys.exit(bool(lost or twice or bad))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.environ.setdefault("COLUMNS", "200")
    main()
