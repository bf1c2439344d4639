"""Reports on a terminal. What they say is known by the modules beside this one."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from capfilt.pipeline.reports.visible import visible


def show_report(report: dict[str, Any], console: Console) -> None:
    """The report on a terminal."""
    table = Table("stage", "in", "kept", "left", "seconds", title=f"{report['run']}", title_justify="left")
    for stage in report["stages"]:
        left = ", ".join(f"{count:,} {reason}" for reason, count in stage["rejected"].items())
        if texts := sum(stage["texts_rejected"].values()):
            left += f"{', ' * bool(left)}{texts:,} texts of kept images"
        units = f"{stage['units_in']:,} {stage['unit']}s" if stage["unit"] else "-"
        seconds = "parent's" if stage["from"] else f"{stage['seconds']:.1f}"
        table.add_row(stage["stage"], units, f"{stage['kept']:,}", left, seconds)
    console.print(table)
    for line in _uniqueness(report["uniqueness"]):
        console.print(line, highlight=False, soft_wrap=True)
    threshold = report["selection"]["threshold_used"]
    for source, texts in report["texts"].items():
        console.print(
            f"{source:>9} texts: {texts['judged']:,} judged, {texts['kept']:,} kept ({texts['kept_share']:.0%})"
            f", median ITM {texts['itm'][1]:.3f}"
            + (f", threshold {threshold:.3f}" if threshold is not None else ""),
            highlight=False,
            soft_wrap=True,
        )
    for name, figure in report["evaluation"].items():
        interval = f" ({figure['low']:.3f} to {figure['high']:.3f})" if figure["low"] is not None else ""
        console.print(
            f"  {name:<24} {figure['value']:.3f}{interval}  [dim]{figure['note']}[/dim]", highlight=False
        )
    if report["words"] and report["words"]["worst_words"]:
        console.print(_words(report["words"]))
    for name, known in report.get("truth", {}).items():
        said = ", ".join(f"{key} {_number(value)}" for key, value in known.items())
        console.print(f"  by the truth, {name}: {said}", highlight=False, soft_wrap=True)
    if report["exported"]:
        pairs = ", ".join(f"{count:,} {source}" for source, count in report["exported"].items())
        console.print(f"exported pairs: {pairs}", highlight=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _uniqueness(found: dict[str, Any]) -> list[str]:
    """What deduplication and balance did."""
    said = []
    if embed := found.get("embed"):
        said.append(
            f"embedded texts: {embed['texts']:,}, {embed['texts_truncated']:,} cut to what the model reads"
        )
    if dedup := found.get("dedup"):
        how = "all pairs compared" if dedup["search"] == "exact" else dedup["search"]
        if "recall" in dedup:
            how += f", recall {dedup['recall']:.3f} of {dedup['recall_pairs']:,} pairs of a sample"
        said.append(
            f"duplicates: {dedup['same_bytes']:,} by bytes, {dedup['near']:,} nearly, in {dedup['groups']:,} groups "
            f"(largest {dedup['largest_group']:,}); {dedup['held_out']:,} like one of {dedup['held_out_set']:,} "
            f"held-out images ({how})"
        )
    if balance := found.get("balance"):
        said.append(
            f"balance: {balance['over_cap']:,} of {balance['words']:,} words above {balance['cap']:,} pairs; "
            f"{balance['kept']:,} of {balance['pairs']:,} pairs stay"
        )
    return said


def _words(found: dict[str, Any]) -> Table:
    """The words that lost most likely texts."""
    table = Table(
        *("word", "human captions have it", "likely web texts", "kept"),
        title="words whose likely texts were dropped most",
        title_justify="left",
    )
    for row in found["worst_words"]:
        known = "yes" if row["covered"] else "hardly"
        table.add_row(row["word"], known, f"{row['likely']:,}", f"{row['likely_kept_share']:.0%}")
    return table


def show_filter_report(card: Mapping[str, Any], console: Console) -> None:
    """The card on a terminal."""
    threshold = card["threshold"]
    table = Table(
        "against", "pairs", "ROC AUC", "", "pass the threshold", title="the filter on human test images"
    )
    for kind, auc in card["auc"].items():
        passes = threshold and threshold["passes"].get(kind)
        table.add_row(
            kind, f"{auc['pairs']:,}", f"{auc['value']:.3f}", _between(auc, ".3f"), _said(passes, ".1%")
        )
    console.print(table)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if calibration := card["calibration"]:
        say(
            f"calibration error (ECE) {_said(calibration['ece_before'], '.3f')} raw, "
            f"{_said(calibration['ece_after'], '.3f')} after scaling: temperature {calibration['temperature']:.2f}, "
            f"bias {calibration['bias']:.2f}; even odds at {calibration['even_odds']:.4f}"
        )
    if threshold:
        sure = f" ({threshold['low']:.4f} to {threshold['high']:.4f})" if threshold["low"] is not None else ""
        say(f"threshold {threshold['value']:.4f}{sure}: {threshold['note']}")
        say(
            f"at it: recall {_said(threshold['recall'], '.3f')} of human pairs, "
            f"precision {_said(threshold['precision'], '.3f')} at the crawl's share of matches"
        )
    sources = [source for source in card["crawl"] if source != "all"]
    table = Table("threshold", "recall", "precision", *(f"{source} kept" for source in sources))
    for row in card["curve"]:
        precision = "-" if row["precision"] is None else f"{row['precision']:.3f}"
        kept = (f"{row['kept'].get(source, 0.0):.1%}" for source in sources)
        table.add_row(f"{row['threshold']:.4f}", f"{row['recall']:.3f}", precision, *kept)
    console.print(table)
    if card["crawl"]:
        table = Table("texts", "judged", "matches, estimated", "kept", "expected noise among them")
        for source, row in card["crawl"].items():
            matches, noise = _said(row["matches"], ".1%"), _said(row["kept_noise"], ".1%")
            table.add_row(source, f"{row['texts']:,}", matches, f"{row['kept']:,}", noise)
        console.print(table)
        say(_method(card["audit"]))
    for warning in card["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)


def _method(check: Mapping[str, Any]) -> str:
    """By what the noise among synthetic texts is known, or why it is not."""
    if check["why_not"]:
        return f"no estimate for synthetic texts: {check['why_not']}"
    said = (
        f"synthetic texts: by {check['captions']:,} captions of held-out human images, held against people's"
    )
    if check["faulted"] is None:
        return f"{said}; no image has two, so what people left unsaid counts as wrong"
    return f"{said}, which say what others of their image do not in {check['faulted']:.0%}"


def _said(figure: Mapping[str, float] | None, form: str) -> str:
    return "-" if figure is None else f"{figure['value']:{form}} {_between(figure, form)}"


def _between(figure: Mapping[str, float], form: str) -> str:
    return f"({figure['low']:{form}} to {figure['high']:{form}})"


def show_funnel(funnel: dict[str, Any], console: Console) -> None:
    """What the counts by reason, which every stage has, do not tell."""

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    texts = funnel["texts"]
    line(f"  texts: {texts['kept']:,} kept, {texts['images_without']:,} images without one")
    if sizes := funnel["sizes"]:
        width, height, size = (sizes[name] for name in ("width", "height", "bytes"))
        line(
            f"  sizes (5%, half, 95%): width {_three(width)}, height {_three(height)}, bytes {_three(size)}; "
            f"{sizes['bytes_in_all'] / 1e6:,.1f} MB in all, "
            f"by {'the first ' if sizes['bytes_sampled'] < funnel['kept'] else ''}{sizes['bytes_sampled']:,} images"
        )
        line("  formats: " + ", ".join(f"{count:,} {name}" for name, count in sizes["formats"].items()))
    for host in funnel["hosts"]:
        line(
            f"  {host['left']:>9,} left of {visible(host['host'])}, {host['kept']:,} kept, mostly {host['mostly']}"
        )


def _three(values: list[float]) -> str:
    return " ".join(f"{value:,.0f}" for value in values)
