"""A run to look into: its stages, tables, figures, images and models. Reads the run's storage alone, without Ray."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import pyarrow as pa

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.api import tables
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import explain, stages, verify
from capfilt.pipeline.reports.explain import Story
from capfilt.pipeline.reports.query import files, query

if TYPE_CHECKING:
    from PIL.Image import Image

    from capfilt.models.protocols import Decoding, Inference
    from capfilt.pipeline.api.search import Found
    from capfilt.pipeline.search.index import IndexFacts, Of

IMAGES = ("ingest", "human")  # the stages that have images' bytes


class VerifiedFile(NamedTuple):
    """A committed part or model that was reread; ``problem`` is empty for one that is as its record says."""

    stage: str
    name: str
    problem: str


@dataclass(frozen=True)
class StageSummary:
    """A stage so far. ``parent`` is the run that it is referred to in, for a fork's; ``units_in`` counts images or
    texts, of which each is kept or rejected.
    """

    name: str
    complete: bool
    parent: str
    shards: int
    units_in: int
    kept: int
    rejected: Mapping[Reason, int]
    texts_rejected: Mapping[Reason, int]
    seconds: float
    notes: tuple[str, ...]


class Stages(Sequence[StageSummary]):
    """The stages of a run in the plan's order, by number or by name; printed, they are a table."""

    def __init__(self, stages: Sequence[StageSummary]) -> None:
        self._stages = tuple(stages)

    @overload
    def __getitem__(self, at: int | str) -> StageSummary: ...

    @overload
    def __getitem__(self, at: slice) -> "Stages": ...

    def __getitem__(self, at: int | str | slice) -> "StageSummary | Stages":
        if isinstance(at, slice):
            return Stages(self._stages[at])
        if isinstance(at, int):
            return self._stages[at]
        found = next((stage for stage in self._stages if stage.name == at), None)
        if found is None:
            raise KeyError(at)
        return found

    def __len__(self) -> int:
        return len(self._stages)

    def __repr__(self) -> str:
        rows = [("stage", "complete", "kept", "rejected")]
        for stage in self._stages:
            left = f"{sum(stage.rejected.values()):,}"
            rows.append((stage.name, "yes" if stage.complete else "no", f"{stage.kept:,}", left))
        return "\n".join(f"{name:<15} {done:<8} {kept:>10} {left:>10}" for name, done, kept, left in rows)


class Models(Mapping[str, str]):
    """Where the models of a run lie, by role or stage: those it was brought, and those it has trained so far.

    A model of a run in a store is fetched when it is asked for; a trained one is compared with its digest.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def _brought(self) -> dict[str, str]:
        record = self._ledger.record()
        models: dict[str, Any] = record.recipe.get("models", {})
        roles = {role: models.get(role) or {} for role in ("filter", "captioner")}
        return {
            role: keys["checkpoint"]
            for role, keys in roles.items()
            if keys.get("checkpoint") and role not in record.fingerprints
        }

    def _trained(self) -> dict[str, str]:
        found = {}
        for stage in self._ledger.record().fingerprints:
            first = self._ledger.index(stage).first_record()
            if first is not None and (digest := first.facts.get("model")):
                found[stage] = str(digest)
        return found

    def __getitem__(self, name: str) -> str:
        if (where := self._brought().get(name)) is not None:
            return where
        return str(self._ledger.model(name, self._trained()[name]))

    def __iter__(self) -> Iterator[str]:
        return iter((*self._brought(), *self._trained()))

    def __len__(self) -> int:
        return len(self._brought()) + len(self._trained())


class Run:
    """A run, complete or not, of :func:`open_run`. Nothing is kept between calls: each reads how the run stands."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __repr__(self) -> str:
        return f"<capfilt.Run {self.url}>"

    @property
    def url(self) -> str:
        """The run's folder or url."""
        return self.ledger.url

    @property
    def name(self) -> str:
        return self.ledger.record().name

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe that the run was made by, as JSON types."""
        return self.ledger.record().recipe

    @property
    def complete(self) -> bool:
        return all(stage.complete for stage in self.stages)

    @property
    def stages(self) -> Stages:
        """Every stage of the plan, with its counts so far."""
        return Stages([_summary(view) for view in stages.stages(self.ledger)])

    def table(self, stage: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A stage's rows so far, with the schema of its contract; ``columns``: only these are read.

        Raises:
            SourceError: the run has no such stage.
            UsageError: the stage has no such column.
            StorageError: a file is damaged, or the disk or the store does not answer.
        """
        return tables.stage_table(self.ledger, stage, columns)

    def rejects(self, stage: str) -> pa.Table:
        """What left a stage so far, a :class:`~capfilt.Reject` a row. Raises as :meth:`table` does."""
        return tables.stage_table(self.ledger, stage, rejects=True)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """A DuckDB query over the run: every stage is a table, and its rejects are ``STAGE_rejects``.

        ``parameters`` take the places of ``?`` in the query. A stage that has no rows yet is an empty table.

        Raises:
            UsageError: the query cannot be understood, or gives no rows.
            StorageError: a file is damaged, or the disk or the store does not answer.
        """
        return tables.select(self.ledger, sql, parameters)

    def explain(self, identifier: str) -> list[Story]:
        """Everything that the run knows of a row, image or pair id, or of a url, stage by stage.

        Raises:
            SourceError: nothing in the run has that id.
        """
        return explain.explain(self.ledger, identifier)

    def report(self, truth: str | Path | None = None, *, write: bool = False) -> dict[str, Any]:
        """The run's numbers as JSON types; with ``truth``, a CSV file,text,match, the noise before and after as well.

        ``write`` puts them into the run: `report.json`, and the dataset card of a finished export.
        """
        from capfilt.pipeline.reports import report

        found = report.write(self.ledger) if write else report.build(self.ledger)
        if truth is not None:
            from capfilt.pipeline.reports.ground_truth import against, read_truth

            found["truth"] = against(self.ledger, read_truth(Path(truth)))
        return found

    def report_card(self) -> dict[str, Any]:
        """What is known of the run's filter from human test pairs, and what that says of the texts it kept.

        Raises:
            CapfiltError: the run has no human pairs, or has not scored them yet.
        """
        from capfilt.pipeline.reports.filter import report_card

        return report_card.demand(self.ledger)

    def verify(self) -> list[VerifiedFile]:
        """Reread every committed part and model and compare it with its record; damage is in the list, and is noted
        in the run, so that :func:`capfilt.resume` repairs it."""
        return [VerifiedFile(*found) for found in verify.verify(self.ledger)]

    @property
    def models(self) -> Models:
        """Where the run's models lie, by name: ``filter``, ``captioner``, and other stages that train one."""
        return Models(self.ledger)

    @property
    def decoding(self) -> "Decoding":
        """How the run decodes captions."""
        from capfilt.pipeline.ad_hoc import images

        return images.decoding_for(str(self.ledger.storage), {}, None)

    @property
    def inference(self) -> "Inference":
        """With which arithmetic the run's models compute."""
        from capfilt.pipeline.ad_hoc import images

        return images.inference_for(str(self.ledger.storage))

    def index(self, stage: str = "export", *, model: str | None = None, device: str = "cpu") -> "IndexFacts":
        """Index a stage's images and texts for :meth:`search`, as :func:`capfilt.pipeline.api.search.index` says."""
        from capfilt.pipeline.api import search

        return search.index(self.ledger, stage, model=model, device=device)

    def search(
        self,
        text: str | None = None,
        image: str | Path | None = None,
        *,
        of: "Of | None" = None,
        count: int = 10,
        stage: str = "export",
        model: str | None = None,
        device: str = "cpu",
    ) -> "Found":
        """The images or texts of an indexed stage that are nearest to a text or to an image file, as
        :func:`capfilt.pipeline.api.search.search` says."""
        from capfilt.pipeline.api import search

        return search.search(
            self.ledger, text, image, of=of, count=count, stage=stage, model=model, device=device
        )

    def image(self, row_id: str) -> "Image":
        """The image of a row, RGB.

        Raises:
            SourceError: the run has no image of that row.
        """
        from capfilt.models.images.decode import decode

        for stage in IMAGES:
            if stage in self.ledger.record().fingerprints:
                own = files(self.ledger, stage)
                if rows := query("SELECT image FROM files WHERE row_id = ? LIMIT 1", own, row_id):
                    return decode(rows[0]["image"])
        raise SourceError(
            what=f"the run has no image of the row {row_id}",
            evidence=f"looked for it in {' and '.join(IMAGES)} of {self.url}",
            remedy="give a row_id, as the tables of the stages have it",
        )


def open_run(where: str | Path) -> Run:
    """A run by its folder or url.

    Raises:
        SourceError: there is no run.
        DamageError: its record cannot be read.
    """
    ledger = Ledger(where)
    ledger.record()
    return Run(ledger)


def _summary(view: stages.StageView) -> StageSummary:
    totals = view.totals
    return StageSummary(
        view.name,
        view.complete,
        view.parent,
        len(totals.shards),
        totals.units_in,
        totals.kept,
        dict(totals.rejected),
        dict(totals.texts_rejected),
        totals.seconds,
        view.notes,
    )
