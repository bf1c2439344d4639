"""Runs in this process, without Ray, with models that know what an image shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from capfilt.data_contracts.identity import image_id, split_of
from capfilt.data_contracts.records import Split
from capfilt.pipeline.execution.create_run import create_run
from capfilt.pipeline.execution.runner import Runner
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.watching.console import Progress
from capfilt.pipeline.watching.log import RunLog
from tests.pipeline.local_pool import LocalCluster
from tests.stages.rows import png

HUMAN, TEST, WEB = 24, 6, 9


def _human() -> list[int]:
    """Numbers of human images, of which TEST are for testing."""
    test = [number for number in range(1000, 1200) if split_of(image_id(png(number))) is Split.TEST]
    other = [number for number in range(1000, 1200) if number not in test]
    return sorted(test[:TEST] + other[: HUMAN - TEST])


def write_data(folder: Path) -> None:
    """Human images that say what they show; web images: even ones true, odd ones false; two bad ones."""
    for name, numbers in (("human", _human()), ("web", range(1, 1 + WEB))):
        (folder / name).mkdir(parents=True)
        rows = ["file,text"]
        for number in numbers:
            (folder / name / f"{number}.png").write_bytes(png(number))
            true = name == "human" or number % 2 == 0
            rows.append(f"{number}.png,{number if true else 999} thing of {name}")
        if name == "web":
            (folder / "web/broken.png").write_bytes(b"not an image")
            rows += ["broken.png,1 broken", "gone.png,1 gone"]
        (folder / name / "captions.csv").write_text("\n".join(rows) + "\n")


def plan_of(data: Path, checkpoints: Mapping[str, Path], **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "name": "run",
        "output": str(data),
        "web": {"format": "folder", "path": str(data / "web")},
        "human": {"format": "folder", "path": str(data / "human")},
        "models": {role: {"checkpoint": str(where)} for role, where in checkpoints.items()},
        "select": {"threshold": 0.5},
        "shards": {"target": 3 * len(png(1))},
    }
    return Plan(parse(values | changes))


def run(plan: Plan, until: str | None = None, parent: Ledger | None = None) -> Ledger:
    """Run a plan, or carry on; as `capfilt run` does."""
    ledger = Ledger(plan.recipe.run)
    create_run(plan, ledger, parent)
    listeners = (RunLog(ledger), Progress(Console(quiet=True)))
    Runner(plan, ledger, listeners, LocalCluster).run(until)
    return ledger
