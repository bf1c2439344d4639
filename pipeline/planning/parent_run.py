"""A parent run, whose cleaned dataset joins the pretraining of another: what of it is to be read, and from where."""

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.fingerprint import digest_of_contents
from capfilt.data_contracts.records import CleanedPart
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage import is_url
from capfilt.stages.training.list_cleaned import ListCleaned
from capfilt.stages.training.read_cleaned import ReadCleaned

PREFIX = "c"
_READ: tuple[str, ...] = ("export", "ingest", "human", "score")


def cleaned_of(run: str) -> tuple[ListCleaned, ReadCleaned]:
    """The stages that list and read what a run has kept; what they are follows from the digests in its ledger.

    Raises:
        RecipeError: the run lies in a store, is not finished or has lost a part of its export.
        SourceError: it is no run.
    """
    if is_url(run):
        raise _refusal("has to be a folder", run, "copy the run into a folder that all nodes see")
    ledger = Ledger(run)
    record = ledger.record()
    totals = ledger.totals("export")
    if totals is None:
        raise _refusal("is not finished", f"{run} has no complete export", f"capfilt resume {run}")
    held = {stage: ledger.index(stage).held() for stage in _READ if stage in record.fingerprints}
    if lost := [shard for shard in totals.shards if shard not in held["export"]]:
        evidence = f"{len(lost)} of {len(totals.shards)} parts of its export are damaged or gone"
        raise _refusal("has lost data", evidence, f"capfilt resume {run}")

    def name(stage: str, shard: str) -> str | None:
        return f"{stage}/{held[stage][shard][0]}" if shard in held.get(stage, {}) else None

    parts = tuple(
        (
            PREFIX + shard,
            CleanedPart(
                export=f"export/{part}",
                sha256=sha256,
                images=name("ingest", shard) or name("human", shard),
                scores=name("score", shard),
            ),
        )
        for shard, (part, sha256) in sorted(held["export"].items())
    )
    digest = digest_of_contents((shard, part.sha256) for shard, part in parts)
    homes = {stage: ledger.home(stage).url for stage in held}
    number = int(record.stages["export"]["stage"]["round"])
    return ListCleaned(digest, parts), ReadCleaned(record.name, number, homes)


def _refusal(what: str, evidence: str, remedy: str) -> RecipeError:
    return RecipeError(what=f"models.pretrain.from_run: the run {what}", evidence=evidence, remedy=remedy)
