"""The filter's report card: what is known of it from human pairs, and what that says of the crawl's texts.

From storage alone: the stages judge, score and select. Figures are of test images that the crawl does not have;
only the scaling of probabilities is fitted on the calibrate split. Intervals are 95%, over images drawn again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from capfilt.data_contracts.errors import CalibrationError, UsageError
from capfilt.data_contracts.records import Author, PairKind, Source, Split
from capfilt.models.statistics.bootstrap import Floats, image_weights, interval, over_images, weighted_auc
from capfilt.models.statistics.calibration import calibrate
from capfilt.models.statistics.metrics import ece, prevalence
from capfilt.models.statistics.mixture import BLIND, Bins, Held
from capfilt.models.statistics.threshold_target import curve
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import keep_rates
from capfilt.pipeline.reports.query import batches, files, query
from capfilt.pipeline.reports.stages import figures
from capfilt.stages.training.rehearsal import NARROW

FEWEST = 20  # test images, for a figure to be worth a line
ROUNDS = 200
RECALLS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3)
POOR_ECE, MUCH_NOISE = 0.1, 0.15
# How often the check must find another image's caption, and may find fault with a person's own, to speak for the
# captioner's.
FOUND, FAULTED = 0.9, 0.2
MATCH = str(PairKind.OWN)
_Estimate = tuple[float, Floats]  # a value, and the same of images drawn again
EDITED = (PairKind.OBJECT, PairKind.ATTRIBUTE, PairKind.RELATION)


def build(ledger: Ledger) -> dict[str, Any] | None:
    """The card as JSON types; ``None`` while no human pair of the test split is judged."""
    pairs = _pairs(ledger)
    test = pairs.of(Split.TEST)
    if not (test.kind == MATCH).any():
        return None
    return _Card(ledger, pairs.of(Split.CALIBRATE), test, int(ledger.record().recipe.get("seed", 0))).build()


def demand(ledger: Ledger) -> dict[str, Any]:
    """The same, or :class:`UsageError` with what is missing."""
    card = build(ledger)
    if card is None:
        raise UsageError(
            what="the run has no test pairs to judge its filter by",
            evidence="its stage `score_held_out` has nothing of them yet"
            if "score_held_out" in ledger.record().fingerprints
            else "the recipe has no `human` source",
            remedy="capfilt resume RUN, or human pairs in the recipe: a tenth of them is the test split",
        )
    return card


@dataclass(frozen=True)
class _Pairs:
    """Judged pairs; arrays with one entry a pair."""

    split: NDArray[np.str_]
    image: NDArray[np.str_]
    kind: NDArray[np.str_]
    itm: Floats

    def of(self, split: Split) -> "_Pairs":
        return self.where(self.split == split)

    def where(self, mask: NDArray[np.bool_]) -> "_Pairs":
        return _Pairs(self.split[mask], self.image[mask], self.kind[mask], self.itm[mask])

    def against(self, *kinds: str) -> "_Pairs":
        """Matches and mismatches of these kinds."""
        return self.where(np.isin(self.kind, [MATCH, *kinds]))

    @property
    def own(self) -> NDArray[np.bool_]:
        return np.asarray(self.kind == MATCH)

    @property
    def images(self) -> int:
        return len(np.unique(self.image))


def _pairs(ledger: Ledger) -> _Pairs:
    """All that were judged, but for test images that the crawl has too."""
    crawl = files(ledger, "ingest")
    others = {"crawl": crawl} if crawl.paths else {}
    leaked = "AND NOT (split = 'test' AND image_id IN (SELECT image_id FROM crawl))" if others else ""
    sql = f"SELECT split, image_id, kind, itm FROM files WHERE true {leaked} ORDER BY image_id, kind, text"
    rows = query(sql, files(ledger, "score_held_out"), **others)
    columns = [[row[name] for row in rows] for name in ("split", "image_id", "kind")]
    split, image, kind = (np.array(column, dtype=str) for column in columns)
    return _Pairs(split, image, kind, np.array([row["itm"] for row in rows], dtype=np.float64))


@dataclass(frozen=True)
class _Checked:
    """Captions held against those that people wrote; arrays with one entry a caption."""

    image: NDArray[np.str_]
    author: NDArray[np.str_]
    itm: Floats
    unsaid: NDArray[np.bool_]

    def share(self, author: Author, weights: Floats, least: float = -1.0) -> float:
        """Of an author's captions with an ITM probability of ``least`` or more, how many say what people do not."""
        some = np.where((self.author == author) & (self.itm >= least), weights, 0.0)
        return float(some @ self.unsaid / some.sum()) if some.sum() else float("nan")

    def count(self, author: Author) -> int:
        return int((self.author == author).sum())

    def wrong(self, weights: Floats, least: float = -1.0) -> float:
        """The share of the captioner's captions that are wrong. Where no image has several captions, people are taken
        to say all."""
        found, faulted = self.share(Author.ANOTHER, weights), self.share(Author.PERSON, weights)
        said = self.share(Author.CAPTIONER, weights, least)
        return prevalence(said, found, 0.0 if np.isnan(faulted) else faulted)


def _checked(ledger: Ledger, best: bool) -> _Checked:
    """All that were checked; with ``best`` only the one of each image that the filter likes most."""
    first = (
        "QUALIFY row_number() OVER (PARTITION BY author, image_id ORDER BY itm DESC, text) = 1"
        if best
        else ""
    )
    sql = f"SELECT image_id, author, coalesce(itm, 0) AS itm, unsaid <> '' AS unsaid FROM files {first} ORDER BY ALL"
    checked = files(ledger, "audit_captions")
    rows = query(sql, checked) if checked.paths else []
    image, author = (np.array([row[name] for row in rows], dtype=str) for name in ("image_id", "author"))
    itm, unsaid = ([row[name] for row in rows] for name in ("itm", "unsaid"))
    return _Checked(image, author, np.array(itm, dtype=np.float64), np.array(unsaid, dtype=bool))


@dataclass(frozen=True)
class _Card:
    ledger: Ledger
    calibrate: _Pairs
    test: _Pairs
    seed: int

    def build(self) -> dict[str, Any]:
        card: dict[str, Any] = {
            "test_images": self.test.images,
            "calibrate_images": self.calibrate.images,
            "auc": {str(kind): auc for kind in PairKind if kind != PairKind.OWN and (auc := self._auc(kind))},
            "calibration": self._calibration(),
            "threshold": self._threshold(),
            "curve": self._curve(),
            "audit": self.check,
            "crawl": self._crawl(),
        }
        card["blind"] = [kind for kind, auc in card["auc"].items() if auc["value"] < BLIND]
        card["warnings"] = list(_warnings(card))
        return card

    def _auc(self, kind: PairKind) -> dict[str, Any] | None:
        some = self.test.against(kind)
        if some.own.all():
            return None
        auc = over_images(some.image, partial(weighted_auc, some.own, some.itm), self.seed)
        return {**auc._asdict(), "pairs": int((~some.own).sum())}

    # -- probabilities ------------------------------------------------------------------------------------

    def _calibration(self) -> dict[str, Any] | None:
        """Platt scaling fitted on the calibrate split, and the ECE of its probabilities on the test split."""
        mismatched = (PairKind.SHUFFLED, PairKind.HARD)
        own, other = self.calibrate.own, np.isin(self.calibrate.kind, mismatched)
        try:
            found = calibrate(self.calibrate.itm[own], self.calibrate.itm[other], seed=self.seed)
        except CalibrationError:  # too few pairs, or a filter that says nothing: the AUC shows it
            return None
        some = self.test.against(*mismatched)
        return {
            "temperature": found.temperature,
            "bias": found.bias,
            "even_odds": found.threshold,
            "ece_before": self._ece(some, some.itm),
            "ece_after": self._ece(some, found.probability(some.itm)),
        }

    def _ece(self, some: _Pairs, probabilities: Floats) -> dict[str, float]:
        """At even odds of matches and mismatches."""

        def balanced(weights: Floats) -> float:
            sides = np.where(some.own, weights[some.own].sum(), weights[~some.own].sum())
            return ece(some.own, probabilities, weights=weights / np.maximum(sides, 1e-9))

        return over_images(some.image, balanced, self.seed)._asdict()

    # -- the threshold ------------------------------------------------------------------------------------

    @cached_property
    def used(self) -> float | None:
        """The threshold of the run, from the stage that set it or from what it kept."""
        for stage in ("calibrate", "threshold"):
            if found := figures(self.ledger, stage).get("threshold"):
                return float(found["value"])
        rows = query("SELECT threshold FROM files LIMIT 1", files(self.ledger, "select"))
        return float(rows[0]["threshold"]) if rows else None

    def _threshold(self) -> dict[str, Any] | None:
        """Where it is, how sure that is, and what it lets through of each kind of test pair."""
        if self.used is None:
            return None
        set_by = figures(self.ledger, "calibrate").get("threshold", {})
        kept = self.test.itm >= self.used
        passes = {str(kind): self._passing(kind, kept) for kind in PairKind if (self.test.kind == kind).any()}
        return {
            "value": self.used,
            "low": set_by.get("low"),
            "high": set_by.get("high"),
            "note": set_by.get("note", "given by the recipe"),
            "recall": passes[MATCH],
            "passes": passes,
            "precision": self._precision(self.used),
        }

    def _passing(self, kind: PairKind, kept: NDArray[np.bool_]) -> dict[str, float]:
        of = self.test.kind == kind

        def share(weights: Floats) -> float:
            total = weights[of].sum()
            return float(weights[of & kept].sum() / total) if total else float("nan")

        return over_images(self.test.image, share, self.seed)._asdict()

    # -- the crawl ----------------------------------------------------------------------------------------

    @cached_property
    def held(self) -> Held | None:
        """Test pairs as densities, unless there are too few."""
        if self.test.images < FEWEST:
            return None
        also = () if self.used is None else (self.used,)
        return Held.of(self.test.itm, self.test.kind, self.test.image, MATCH, *also)

    @cached_property
    def scored(self) -> Mapping[str, Floats]:
        """Counts by bin of each source's scored texts."""
        return self._counts("score")

    def _counts(self, stage: str, bins: Bins | None = None) -> dict[str, Floats]:
        counts: dict[str, Floats] = {}
        if bins is None:
            if self.held is None:
                return counts
            bins = self.held.bins
        for batch in batches("SELECT source, itm FROM files", files(self.ledger, stage)):
            source, itm = np.array(batch["source"].to_pylist()), batch["itm"].to_numpy()
            for name in np.unique(source):
                counts[name] = counts.get(name, 0.0) + bins.count(itm[source == name])
        return counts

    def _precision(self, threshold: float) -> dict[str, float] | None:
        """Share of matches among all texts that reach it, at the crawl's prior and in its mixture of mismatches."""
        if self.held is None or not self.scored:
            return None
        held, crawl = self.held, np.sum(list(self.scored.values()), axis=0)

        def at(kinds: Floats, pairs: Floats) -> float:
            shares = list(zip(held.kinds, kinds.tolist(), strict=True))
            return float(curve(held.itm, held.kind, shares, pairs, [threshold]).precision[0])

        value = at(held.fit(crawl).weights, np.ones(len(held.itm)))
        again = held.redrawn(crawl, self.seed, ROUNDS).weights
        drawn = map(at, again, image_weights(held.image, self.seed, ROUNDS))
        return interval(value, list(drawn))._asdict()

    def _curve(self) -> list[dict[str, Any]]:
        """By falling threshold: recall and precision of keeping what is above, and how much of the crawl that is."""
        own = np.sort(self.test.itm[self.test.own])
        places = {own[min(int(len(own) * (1 - recall) + 1e-9), len(own) - 1)] for recall in RECALLS}
        thresholds = np.array(sorted({*places, *([] if self.used is None else [self.used])}))
        bins = Bins(tuple(thresholds.tolist()))
        counts = self._counts("score", bins)
        shares = [(MATCH, 1.0)]
        if self.held and self.scored:
            mixture = self.held.fit(np.sum(list(self.scored.values()), axis=0))
            shares = list(zip(self.held.kinds, mixture.weights.tolist(), strict=True))
        found = curve(self.test.itm, self.test.kind, shares, np.ones(len(self.test.itm)), thresholds)
        return [
            {
                "threshold": threshold,
                "recall": float(recall),
                "precision": float(precision) if len(shares) > 1 else None,
                "kept": {
                    source: float(count[bins.above(threshold)].sum() / count.sum())
                    for source, count in counts.items()
                },
            }
            for threshold, recall, precision in reversed(
                list(zip(*map(np.ndarray.tolist, found), strict=True))
            )
        ]

    @cached_property
    def checked(self) -> _Checked:
        caption = self.ledger.record().recipe.get("caption") or {}
        return _checked(self.ledger, caption.get("keep") == "best")

    @cached_property
    def check(self) -> dict[str, Any]:
        """Whether people's captions of held-out images can judge the captioner's, and if not, why."""
        checked = self.checked
        every = np.ones(len(checked.image))
        found, faulted = (checked.share(author, every) for author in (Author.ANOTHER, Author.PERSON))
        count = checked.count(Author.CAPTIONER)
        why = None
        if count < FEWEST:
            why = f"of {count} captions of held-out images nothing can be told"
        elif not found >= FOUND:
            why = f"the check finds {found:.0%} of other images' captions: its rules are for English"
        elif faulted > FAULTED:
            why = (
                f"{faulted:.0%} of people's own captions say what the others of their image do not, "
                "so what the captioner says and they do not may be true"
            )
        errs = {"found": found, "faulted": faulted}
        known = {name: None if np.isnan(share) else share for name, share in errs.items()}
        return {"captions": count, **known, "why_not": why}

    def _crawl(self) -> dict[str, Any]:
        """By source of texts: how many match before, and how much of what is kept does not."""
        if self.held is None or self._narrow():
            return {}
        kept = self._counts("select")
        nothing = self.held.bins.count([])
        found: dict[str, dict[str, Any]] = {}
        noises = []
        for source, count in sorted(self.scored.items()):
            own = kept.get(source, nothing)
            matches, noise = (
                self._written() if source == Source.SYNTHETIC else self._mixed(self.held, count, own)
            )
            noises.append((own.sum(), noise))
            found[source] = {
                "texts": int(count.sum()),
                "kept": int(own.sum()),
                "matches": matches and interval(*matches)._asdict(),
                "kept_noise": noise and interval(*noise)._asdict(),
            }
        if found:
            found["all"] = {name: sum(row[name] for row in found.values()) for name in ("texts", "kept")}
            found["all"] |= {"matches": None, "kept_noise": _together(noises)}
        return found

    def _narrow(self) -> bool:
        """Whether the human captions know too little of the web's words to speak for its texts."""
        words = files(self.ledger, "word_coverage")
        return bool(words.paths) and keep_rates.covered(words) < NARROW

    def _mixed(self, held: Held, count: Floats, kept: Floats) -> tuple[_Estimate, _Estimate | None]:
        """Shares of matches, and of noise among those kept, of texts of anybody: as far as their scores tell."""
        mixture, again = held.fit(count), held.redrawn(count, self.seed, ROUNDS)
        noise = (float(mixture.noise(kept)), again.noise(kept)) if kept.sum() else None
        return (float(mixture.prior), again.prior), noise

    def _written(self) -> tuple[_Estimate | None, _Estimate | None]:
        """The same of the captioner's texts, whose errors please the filter: by what it writes of held-out images."""
        checked = self.checked
        if self.check["why_not"]:
            return None, None
        every = np.ones(len(checked.image))
        drawn = list(image_weights(checked.image, self.seed, ROUNDS))

        def estimate(least: float) -> _Estimate:
            again = [checked.wrong(weights, least) for weights in drawn]
            return checked.wrong(every, least), np.array(again)

        wrong = estimate(-1.0)
        many = ((checked.author == Author.CAPTIONER) & (checked.itm >= (self.used or 0.0))).sum() >= FEWEST
        return (1 - wrong[0], 1 - wrong[1]), estimate(self.used or 0.0) if many else None


def _together(noises: Sequence[tuple[float, _Estimate | None]]) -> dict[str, float] | None:
    """The noise of texts of several sources, weighed by how many of each are kept; ``None`` if one is not known."""
    known = [(kept, noise) for kept, noise in noises if kept]
    if not known or any(noise is None for _, noise in known):
        return None
    total = sum(kept for kept, _ in known)
    value = sum(kept * noise[0] for kept, noise in known if noise) / total
    return interval(value, sum(kept * noise[1] for kept, noise in known if noise) / total)._asdict()


def _warnings(card: Mapping[str, Any]) -> Iterator[str]:
    """What stands against trusting the filter, in plain words, each with what to do."""
    for kind in card["blind"]:
        auc = card["auc"][kind]
        said = f"ROC AUC {auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f}), where 0.5 is a guess"
        if kind in EDITED:
            yield (
                f"The filter is blind to a wrong {kind}: {said}. Such texts pass as matches, and the expected noise "
                "does not count them. Train it with text-edited negatives (models.filter.edits); if it was, longer "
                "or on more human pairs."
            )
        else:
            yield (
                f"The filter does not tell matches from {kind} captions: {said}. Bring more human pairs, train "
                "longer, or use a released checkpoint."
            )
    calibration = card["calibration"]
    if calibration and calibration["ece_after"]["low"] > POOR_ECE:
        yield (
            f"The filter's probabilities are off by {calibration['ece_after']['value']:.2f} on test images even "
            "after scaling: the calibrate split is too small, or unlike the test split."
        )
    for source in Source:
        noise = card["crawl"].get(source, {}).get("kept_noise")
        if noise and noise["low"] > MUCH_NOISE:
            yield (
                f"An estimated {noise['value']:.0%} of the kept {source} texts do not match ({noise['low']:.0%} to "
                f"{noise['high']:.0%}). Ask for more: select.threshold: {{precision: 0.9}}, in a fork."
            )


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


def show(card: Mapping[str, Any], console: Console) -> None:
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


def _said(figure: Mapping[str, float] | None, form: str) -> str:
    return "-" if figure is None else f"{figure['value']:{form}} {_between(figure, form)}"


def _between(figure: Mapping[str, float], form: str) -> str:
    return f"({figure['low']:{form}} to {figure['high']:{form}})"
