"""What the demo's truth says of its crawl."""

import csv
from collections import Counter
from pathlib import Path

from capfilt.pipeline.demo.grammar import Verdict


def web_verdicts(out: Path) -> Counter[Verdict]:
    """How many web texts are true, partial, wrong in which way, or not about an image at all."""
    with (out / "truth.csv").open(encoding="utf-8", newline="") as file:
        return Counter(Verdict(row["verdict"]) for row in csv.DictReader(file) if row["set"] == "web")
