"""Noise before and after cleaning, where somebody knows which pairs are true."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.records import Source
from capfilt.models.statistics.roc import roc_auc_over_images
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.query import files, query


class Truth(StrEnum):
    """What is known of a pair. A partial text says nothing false, but not all; it does not count as noise."""

    MATCH = "match"
    PARTIAL = "partial"
    NOISE = "noise"


Judge = Callable[[str, str], Truth | None]


def read_truth(path: Path) -> Judge:
    """A judge from a CSV with the columns file, text, match (1 or 0); pairs that it does not list are unknown.

    Raises:
        SourceError: the file or a column is not there.
    """
    try:
        rows = pacsv.read_csv(path).select(["file", "text", "match"]).to_pylist()
        if unclear := [row["match"] for row in rows if row["match"] not in (0, 1)]:
            raise ValueError(f"match is {unclear[0]!r}")
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(
            what=f"the truth table {path} cannot be read",
            evidence=str(error).splitlines()[0],
            remedy="it is a CSV with the columns file,text,match, where match is 1 or 0",
        ) from error
    known = {
        (str(row["file"]), " ".join(str(row["text"]).split())): Truth.MATCH if row["match"] else Truth.NOISE
        for row in rows
    }
    return lambda url, text: known.get((url, text))


def against(ledger: Ledger, judge: Judge) -> dict[str, Any]:
    """What the run did to true and to false pairs: noise and counts by source, AUC of ITM and ITC on web texts.

    Noise is the share of judged pairs that are NOISE. ``true_kept`` is the share of MATCH pairs kept. The AUC is
    of MATCH against NOISE; partial texts are left out of it.
    """
    urls = {
        row["row_id"]: row["url"] for row in query("SELECT row_id, url FROM files", files(ledger, "ingest"))
    }
    kept = {row["pair_id"] for row in query("SELECT pair_id FROM files", files(ledger, "select"))}
    scores = query("SELECT pair_id, row_id, source, text, itm, itc FROM files", files(ledger, "score"))
    judged = [(row, truth) for row in scores if (truth := judge(urls[row["row_id"]], row["text"]))]
    web = [(row, truth) for row, truth in judged if row["source"] == Source.WEB]
    synthetic = [(row, truth) for row, truth in judged if row["source"] == Source.SYNTHETIC]
    report: dict[str, Any] = {
        name: _noise(some, kept)
        for name, some in (("web", web), ("synthetic", synthetic), ("all", judged))
        if some
    }
    clear = [(row, truth) for row, truth in web if truth is not Truth.PARTIAL]
    labels = np.array([truth is Truth.MATCH for _, truth in clear])
    if labels.any() and not labels.all():
        for name in ("itm", "itc"):
            report[f"web_auc_{name}"] = roc_auc_over_images(
                labels, [row[name] for row, _ in clear], [row["row_id"] for row, _ in clear], 0
            )._asdict()
    return report


def _noise(pairs: list[tuple[dict[str, Any], Truth]], kept: set[str]) -> dict[str, Any]:
    stays = [truth for row, truth in pairs if row["pair_id"] in kept]
    every = [truth for _, truth in pairs]
    matches = every.count(Truth.MATCH)
    return {
        "pairs": len(every),
        "noise": every.count(Truth.NOISE) / len(every),
        "kept": len(stays),
        "kept_noise": stays.count(Truth.NOISE) / len(stays) if stays else None,
        "kept_partial": stays.count(Truth.PARTIAL) / len(stays) if stays else None,
        "true_kept": stays.count(Truth.MATCH) / matches if matches else None,
    }
