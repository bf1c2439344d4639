"""The report of a run: one set of numbers for the terminal, `report.json` and the dataset card."""

import json
from importlib.resources import files as resources
from typing import Any

import jinja2

from capfilt.data_contracts.rejects import MEANING
from capfilt.models.statistics.metrics import diversity, most_shared
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import dedup_report
from capfilt.pipeline.reports.filter import keep_rates, report_card
from capfilt.pipeline.reports.query import files, query
from capfilt.pipeline.reports.stages import figures, stages
from capfilt.stages.training.pretrain import MOST_PASSES, learnt_by_heart, web_passes

WEAK_AUC = 0.7
# A captioner worth its name beats the human caption of another image by far.
POOR_CIDER = 1.5
# A stock phrase: one caption, or one phrase of so many words, under a larger share of the images than people
# would write it. Among human captions of 1,500 photos the largest shares are 0.1% and 0.9%.
STOCK_TEXT, STOCK_PHRASE, PHRASE_WORDS, STOCK_IMAGES = 0.02, 0.1, 6, 10


def build(ledger: Ledger) -> dict[str, Any]:
    """All numbers of a run as JSON types, from storage alone."""
    record = ledger.record()
    views = stages(ledger)
    evaluation = {name: _figure(row) for name, row in figures(ledger, "evaluate").items()}
    report: dict[str, Any] = {
        "run": record.name,
        "created": record.created,
        "parent": record.parent,
        "seed": record.recipe.get("seed", 0),
        "complete": all(view.complete for view in views),
        "versions": record.versions,
        "stages": [
            {
                "stage": view.name,
                "complete": view.complete,
                "from": view.parent or None,
                "unit": _unit(ledger, view.name),
                "units_in": view.totals.units_in,
                "fan_out": view.totals.fan_out,
                "kept": view.totals.kept,
                "rejected": {str(reason): count for reason, count in sorted(view.totals.rejected.items())},
                "texts_rejected": {
                    str(reason): count for reason, count in sorted(view.totals.texts_rejected.items())
                },
                "shards": len(view.totals.shards),
                "seconds": round(view.totals.seconds, 2),
                "notes": list(view.notes),
            }
            for view in views
        ],
        "selection": record.recipe.get("select", {}) | {"threshold_used": _threshold(ledger)},
        "texts": _texts(ledger),
        "stock": _stock(ledger),
        "words": keep_rates.keep_rates(ledger),
        "rehearsal": record.recipe.get("models", {}).get("rehearsal", "auto"),
        "exported": _exported(ledger),
        "evaluation": evaluation,
        "web_passes": _web_passes(ledger),
        "filter": report_card.build(ledger),
        "test_images_in_crawl": _leaked(ledger),
        "uniqueness": dedup_report.build(ledger),
    }
    report["warnings"] = _warnings(report)
    return report


def _figure(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("value", "low", "high", "count", "note")}


def _unit(ledger: Ledger, stage: str) -> str:
    record = ledger.index(stage).first_record()
    return record.unit if record else ""


def _threshold(ledger: Ledger) -> float | None:
    rows = query("SELECT threshold FROM files LIMIT 1", files(ledger, "select"))
    return rows[0]["threshold"] if rows else None


def _texts(ledger: Ledger) -> dict[str, Any]:
    """By source: how many texts were judged and kept, what their scores were, how diverse they are."""
    judged = query(
        "SELECT source, count(*) AS judged, avg(itm) AS mean_itm, quantile_cont(itm, [0.1, 0.5, 0.9]) AS itm, "
        "avg(itc) AS mean_itc FROM files GROUP BY source ORDER BY source",
        files(ledger, "score"),
    )
    kept = query("SELECT source, count(*) AS kept FROM files GROUP BY source", files(ledger, "select"))
    count = {row["source"]: row["kept"] for row in kept}
    texts: dict[str, Any] = {}
    for row in judged:
        source = row.pop("source")
        own = query("SELECT text FROM files WHERE source = ? LIMIT 20000", files(ledger, "score"), source)
        spread = diversity(text["text"] for text in own)
        texts[source] = {
            **row,
            "kept": count.get(source, 0),
            "kept_share": count.get(source, 0) / row["judged"],
            "unique_trigrams": spread["unique_trigrams"],
            "duplicate_rate": spread["duplicate_rate"],
        }
    return texts


def _stock(ledger: Ledger) -> list[dict[str, Any]]:
    """The caption, and the phrase, that most images have, among the 20,000 images whose ids come first."""
    rows = query(
        "SELECT list(text) AS texts FROM files GROUP BY image_id ORDER BY image_id LIMIT 20000",
        files(ledger, "caption"),
    )
    stock = []
    for kind, n, limit in (("caption", None, STOCK_TEXT), ("phrase", PHRASE_WORDS, STOCK_PHRASE)):
        text, images = most_shared((row["texts"] for row in rows), n)
        share = images / len(rows) if rows else 0.0
        implausible = images >= STOCK_IMAGES and share > limit
        stock.append(
            {"kind": kind, "text": text, "images": images, "share": share, "implausible": implausible}
        )
    return stock


def _exported(ledger: Ledger) -> dict[str, int]:
    rows = query(
        "SELECT source, count(*) AS pairs FROM files GROUP BY source ORDER BY 1", files(ledger, "export")
    )
    return {row["source"]: row["pairs"] for row in rows}


def _leaked(ledger: Ledger) -> int:
    """Test images of the human set that are in the crawl, too: evaluation leaves them out, the export cannot."""
    goes_on = "dedup" if "dedup" in ledger.record().fingerprints else "ingest"
    human, crawl = files(ledger, "human"), files(ledger, goes_on)
    if not crawl.paths:
        return 0
    rows = query(
        "SELECT count(DISTINCT image_id) AS images FROM files SEMI JOIN crawl USING (image_id) WHERE split = 'test'",
        human,
        crawl=crawl,
    )
    return rows[0]["images"] if rows else 0


def _web_passes(ledger: Ledger) -> float | None:
    """How often pretraining saw each web image, if there was one."""
    trained, web = ledger.record().stages.get("pretrain"), ledger.totals("ingest")
    if not trained or web is None or not web.kept:
        return None
    cleaned = ledger.totals("cleaned")
    return web_passes(trained["stage"]["settings"], web.kept, cleaned.kept if cleaned else 0)


def _warnings(report: dict[str, Any]) -> list[str]:
    """What a user should know before trusting the dataset, in plain words."""
    evaluation, warnings = report["evaluation"], []
    if missing := [stage["stage"] for stage in report["stages"] if not stage["complete"]]:
        warnings.append(
            f"The run is not complete ({', '.join(missing)}): figures are of what is there so far."
        )
    if leaked := report["test_images_in_crawl"]:
        warnings.append(
            f"{leaked} test images of the human set are in the crawl, too. They are left out of the evaluation, but "
            "their web and synthetic pairs are exported: leave those image_ids out of training as well."
        )
    auc = evaluation.get("filter_auc")
    if auc and auc["low"] < WEAK_AUC:
        warnings.append(
            f"The filter is weak: test AUC {auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f}) against "
            "shuffled captions. Bring more human pairs, train longer, or use a released checkpoint."
        )
    cider, chance = evaluation.get("caption_cider"), evaluation.get("chance_cider")
    if cider and chance and cider["value"] < POOR_CIDER * chance["value"]:
        warnings.append(
            f"The captions are poor: CIDEr {cider['value']:.2f} on test images, where the human captions of "
            f"other images reach {chance['value']:.2f}. Do not train on the synthetic texts of this run."
        )
    if (passes := report["web_passes"] or 0.0) > MOST_PASSES:
        web = next(stage["kept"] for stage in report["stages"] if stage["stage"] == "ingest")
        warnings.append(learnt_by_heart(passes, web))
    warnings += keep_rates.alarm(report["words"], report["rehearsal"])
    tested = evaluation.get("test_images")
    if tested and tested["value"] < 50:
        warnings.append(f"Only {tested['value']:.0f} test images: every figure has a wide error.")
    synthetic = report["texts"].get("synthetic")
    if synthetic and synthetic["duplicate_rate"] > 0.5:
        warnings.append(f"{synthetic['duplicate_rate']:.0%} of the synthetic texts repeat another one.")
    warnings += [
        f"A stock phrase: {stock['share']:.0%} of the captioned images ({stock['images']:,}) have the "
        f"{stock['kind']} `{stock['text']}`. Look at them, and consider another captioner or decoding."
        for stock in report["stock"]
        if stock["implausible"]
    ]
    warnings += (report["filter"] or {}).get("warnings", [])
    warnings += dedup_report.warnings(report["uniqueness"])
    return warnings + [
        f"{poison} units killed their process in {stage['stage']} and were quarantined."
        for stage in report["stages"]
        if (poison := stage["rejected"].get("poison"))
    ]


def write(ledger: Ledger) -> dict[str, Any]:
    """Build the report and write `report.json`, and the dataset card once the export is complete."""
    report = build(ledger)
    ledger.storage.replace("report.json", (json.dumps(report, indent=2) + "\n").encode())
    if ledger.totals("export") and ledger.home("export").url == ledger.url:
        ledger.storage.replace("export/README.md", card(report).encode())
    return report


def card(report: dict[str, Any]) -> str:
    """The dataset card: the same numbers, for people."""
    template = resources("capfilt.pipeline.reports").joinpath("templates/card.md.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=False, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(report=report, meaning=MEANING)
