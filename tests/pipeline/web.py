"""A crawl by urls, on a loopback server whose images say what they show."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capfilt.pipeline.planning.build import Plan
from tests.hostile import Hostile, answer
from tests.pipeline.local import plan_of, write_data
from tests.stages.rows import png

LOOPBACK = ["127.0.0.1/32"]


def serve(server: Hostile) -> None:
    """show/3: the image that shows 3."""
    server.on("show", lambda connection, rest: answer(connection, 200, png(int(rest))))


def write_list(path: Path, texts: Mapping[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "text"])
        writer.writerows(texts.items())
    return path


def web_plan(folder: Path, texts: Mapping[str, str], checkpoints: Mapping[str, Path], **changes: Any) -> Plan:
    """A plan that fetches these urls, beside a human set from files."""
    if not (folder / "human").is_dir():
        write_data(folder)
    web = {"format": "urls", "path": str(write_list(folder / "urls.csv", texts))}
    fetch = {"allow_private": LOOPBACK, "timeout": 3.0, "retries": 0, "preflight": 0}
    return plan_of(
        folder,
        checkpoints,
        **{"web": web, "fetch": fetch, "shards": {"target": 10**6, "rows": 4}, **changes},
    )
