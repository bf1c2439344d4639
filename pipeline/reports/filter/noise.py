"""How many of a crawl's texts match and how much of what is kept does not: estimated from held-out human pairs.

Web texts by the mixture of scores that they are (:mod:`capfilt.models.statistics.mixture`), synthetic texts by the
audit of captions of held-out human images. Intervals are 95%, over images drawn again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from capfilt.data_contracts.records import Author, Source
from capfilt.models.statistics.bootstrap import Floats, image_weights, interval
from capfilt.models.statistics.mixture import Bins, HeldOutScores
from capfilt.models.statistics.threshold_target import curve as threshold_curve
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.filter import keep_rates
from capfilt.pipeline.reports.filter.evidence import MATCH, AuditedCaptions, HeldOutPairs, audited_captions
from capfilt.pipeline.reports.query import batches, files
from capfilt.stages.training.rehearsal import NARROW

FEWEST = 20  # test images, for a figure to be worth a line
ROUNDS = 200
RECALLS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3)
# How often the audit must find another image's caption, and may find fault with a person's own, to speak for the
# captioner's.
FOUND, FAULTED = 0.9, 0.2
_Estimate = tuple[float, Floats]  # a value, and the same of images drawn again


@dataclass(frozen=True)
class NoiseEstimate:
    """``test`` are the scored pairs of the test split, ``threshold`` is that of the run, if it has one yet."""

    ledger: Ledger
    test: HeldOutPairs
    threshold: float | None
    seed: int

    @cached_property
    def densities(self) -> HeldOutScores | None:
        """Test pairs as densities, unless there are too few."""
        if self.test.images < FEWEST:
            return None
        also = () if self.threshold is None else (self.threshold,)
        return HeldOutScores.of(self.test.itm, self.test.kind, self.test.image, MATCH, *also)

    @cached_property
    def scored(self) -> Mapping[str, Floats]:
        """Counts by bin of each source's scored texts."""
        return self._counts("score")

    def _counts(self, stage: str, bins: Bins | None = None) -> dict[str, Floats]:
        counts: dict[str, Floats] = {}
        if bins is None:
            if self.densities is None:
                return counts
            bins = self.densities.bins
        for batch in batches("SELECT source, itm FROM files", files(self.ledger, stage)):
            source, itm = np.array(batch["source"].to_pylist()), batch["itm"].to_numpy()
            for name in np.unique(source):
                counts[name] = counts.get(name, 0.0) + bins.count(itm[source == name])
        return counts

    def precision(self, threshold: float) -> dict[str, float] | None:
        """Share of matches among all texts that reach it, at the crawl's prior and in its mixture of mismatches."""
        if self.densities is None or not self.scored:
            return None
        densities, crawl = self.densities, np.sum(list(self.scored.values()), axis=0)

        def at(kinds: Floats, pairs: Floats) -> float:
            shares = list(zip(densities.kinds, kinds.tolist(), strict=True))
            return float(
                threshold_curve(densities.itm, densities.kind, shares, pairs, [threshold]).precision[0]
            )

        value = at(densities.fit(crawl).weights, np.ones(len(densities.itm)))
        again = densities.redrawn(crawl, self.seed, ROUNDS).weights
        drawn = map(at, again, image_weights(densities.image, self.seed, ROUNDS))
        return interval(value, list(drawn))._asdict()

    def curve(self) -> list[dict[str, Any]]:
        """By falling threshold: recall and precision of keeping what is above, and how much of the crawl that is."""
        own = np.sort(self.test.itm[self.test.own])
        places = {own[min(int(len(own) * (1 - recall) + 1e-9), len(own) - 1)] for recall in RECALLS}
        thresholds = np.array(sorted({*places, *([] if self.threshold is None else [self.threshold])}))
        bins = Bins(tuple(thresholds.tolist()))
        counts = self._counts("score", bins)
        shares = [(MATCH, 1.0)]
        if self.densities and self.scored:
            mixture = self.densities.fit(np.sum(list(self.scored.values()), axis=0))
            shares = list(zip(self.densities.kinds, mixture.weights.tolist(), strict=True))
        found = threshold_curve(
            self.test.itm, self.test.kind, shares, np.ones(len(self.test.itm)), thresholds
        )
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
    def audited(self) -> AuditedCaptions:
        caption = self.ledger.record().recipe.get("caption") or {}
        return audited_captions(self.ledger, caption.get("keep") == "best")

    @cached_property
    def audit(self) -> dict[str, Any]:
        """Whether people's captions of held-out images can judge the captioner's, and if not, why."""
        audited = self.audited
        every = np.ones(len(audited.image))
        found, faulted = (audited.share(author, every) for author in (Author.ANOTHER, Author.PERSON))
        count = audited.count(Author.CAPTIONER)
        why = None
        if count < FEWEST:
            why = f"of {count} captions of held-out images nothing can be told"
        elif not found >= FOUND:
            why = f"the audit finds {found:.0%} of other images' captions: its rules are for English"
        elif faulted > FAULTED:
            why = (
                f"{faulted:.0%} of people's own captions say what the others of their image do not, "
                "so what the captioner says and they do not may be true"
            )
        errs = {"found": found, "faulted": faulted}
        known = {name: None if np.isnan(share) else share for name, share in errs.items()}
        return {"captions": count, **known, "why_not": why}

    def texts(self) -> dict[str, Any]:
        """By source of texts: how many match before, and how much of what is kept does not."""
        if self.densities is None or self._narrow():
            return {}
        kept = self._counts("select")
        nothing = self.densities.bins.count([])
        found: dict[str, dict[str, Any]] = {}
        noises = []
        for source, count in sorted(self.scored.items()):
            own = kept.get(source, nothing)
            matches, noise = (
                self._written() if source == Source.SYNTHETIC else self._mixed(self.densities, count, own)
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
            found["all"] |= {"matches": None, "kept_noise": _noise_of_all(noises)}
        return found

    def _narrow(self) -> bool:
        """Whether the human captions know too little of the web's words to speak for its texts."""
        words = files(self.ledger, "word_coverage")
        return bool(words.paths) and keep_rates.covered(words) < NARROW

    def _mixed(
        self, densities: HeldOutScores, count: Floats, kept: Floats
    ) -> tuple[_Estimate, _Estimate | None]:
        """Shares of matches, and of noise among those kept, of texts of anybody: as far as their scores tell."""
        mixture, again = densities.fit(count), densities.redrawn(count, self.seed, ROUNDS)
        noise = (float(mixture.noise(kept)), again.noise(kept)) if kept.sum() else None
        return (float(mixture.prior), again.prior), noise

    def _written(self) -> tuple[_Estimate | None, _Estimate | None]:
        """The same of the captioner's texts, whose errors please the filter: by what it writes of held-out images."""
        audited = self.audited
        if self.audit["why_not"]:
            return None, None
        every = np.ones(len(audited.image))
        drawn = list(image_weights(audited.image, self.seed, ROUNDS))

        def estimate(least: float) -> _Estimate:
            again = [audited.wrong(weights, least) for weights in drawn]
            return audited.wrong(every, least), np.array(again)

        wrong = estimate(-1.0)
        many = (
            (audited.author == Author.CAPTIONER) & (audited.itm >= (self.threshold or 0.0))
        ).sum() >= FEWEST
        return (1 - wrong[0], 1 - wrong[1]), estimate(self.threshold or 0.0) if many else None


def _noise_of_all(noises: Sequence[tuple[float, _Estimate | None]]) -> dict[str, float] | None:
    """The noise of texts of several sources, weighed by how many of each are kept; ``None`` if one is not known."""
    known = [(kept, noise) for kept, noise in noises if kept]
    if not known or any(noise is None for _, noise in known):
        return None
    total = sum(kept for kept, _ in known)
    value = sum(kept * noise[0] for kept, noise in known if noise) / total
    return interval(value, sum(kept * noise[1] for kept, noise in known if noise) / total)._asdict()
