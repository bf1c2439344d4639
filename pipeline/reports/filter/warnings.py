"""What stands against trusting a filter, by its report."""

from collections.abc import Iterator, Mapping
from typing import Any

from capfilt.data_contracts.records import PairKind, Source

POOR_ECE, MUCH_NOISE = 0.1, 0.15
EDITED = (PairKind.OBJECT, PairKind.ATTRIBUTE, PairKind.RELATION)


def warnings(card: Mapping[str, Any]) -> Iterator[str]:
    """In plain words, each with what to do."""
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
