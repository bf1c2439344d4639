"""The model that embeds for a run's index, and the one that may ask it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from capfilt.data_contracts.errors import ModelError, UsageError
from capfilt.models.open import digest_of
from capfilt.pipeline.ad_hoc import images
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.planning.status import model_digest
from capfilt.pipeline.search.index import IndexFacts


def model_of(ledger: Ledger, given: str | None) -> str:
    """Where the model lies that embeds for a run: the one given, or the best of its own."""
    if given:
        return images.model_of(given, "filter")
    return next(_own_models(ledger), None) or images.model_of(str(ledger.storage), "filter")


def _own_models(ledger: Ledger) -> Iterator[str]:
    """Where the models lie that a run can embed with: the one that its recipe deduplicates with, its filter, the one
    that it pretrains. Those that are not trained yet are left out."""
    record = ledger.record()
    recipe: Any = parse(record.recipe)
    if recipe.dedup is not None and recipe.dedup.model:
        yield str(recipe.dedup.model)
    with suppress(ModelError):
        yield images.model_of(str(ledger.storage), "filter")
    if "pretrain" in record.fingerprints and (digest := model_digest(ledger.index("pretrain"))):
        yield str(ledger.model("pretrain", digest))


def model_behind(ledger: Ledger, facts: IndexFacts, given: str | None) -> str:
    """The model that asks an index: the one given, or that of the run's own which made it.

    Raises:
        UsageError: it is not the one that the index was made with.
    """
    candidates = [model_of(ledger, given)] if given else [*_own_models(ledger)]
    digests = {digest_of(where): where for where in candidates}
    if found := digests.get(facts.digest):
        return found
    asked = ", ".join(f"{where} ({digest[:12]})" for digest, where in digests.items()) or "none"
    raise UsageError(
        what="the index was made with another model: its vectors and yours mean different things",
        evidence=f"made with {facts.model} ({facts.digest[:12]}), asked with {asked}",
        remedy=f"give --model {facts.model}, or index again: capfilt index {ledger.url} --stage {facts.stage}",
    )
