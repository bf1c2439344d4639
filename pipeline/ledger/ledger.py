"""The ledger: what is committed in a run, and how it gets there.

The visible data file is the commit. A part is put under its deterministic name if that name is free
(:meth:`capfilt.pipeline.storage.Storage.create`): the first writer wins, and its footer holds the whole
:class:`~capfilt.data_contracts.ledger.ShardRecord`. ``_commits`` is an index of what the footers say, with the size
and digest of each part; it can be lost and is rebuilt. No name is ever given to other rows: a damaged or
superseded part is copied to ``_quarantine``, a valid part of zero rows takes its name, and its shard is redone
under the next generation's name.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from capfilt.data_contracts.errors import DamageError, RunChangedError, SourceError
from capfilt.data_contracts.fingerprint import digest_of_contents
from capfilt.data_contracts.ledger import FORMAT, RunRecord, ShardRecord, StageTotals
from capfilt.pipeline.ledger.commit_index import CommitIndex, Part, part_name
from capfilt.pipeline.ledger.index_store import QUARANTINED, IndexStore, reader_of
from capfilt.pipeline.storage import Storage, storage_at
from capfilt.pipeline.storage.failpoints import failpoint

RUN = "run.json"


class Ledger:
    """One run. Holds no open files and no state besides where the run lies: all of it is in the storage."""

    def __init__(self, run: str | Path | Storage) -> None:
        self.storage = run if isinstance(run, Storage) else storage_at(run)

    @property
    def url(self) -> str:
        """Where the run lies, for people."""
        return self.storage.url

    # -- the run ------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self.storage.size(RUN) is not None

    def record(self) -> RunRecord:
        """The run's own record.

        Raises:
            SourceError: when the folder is not a run.
            RunChangedError: when a capfilt made it that gave stages and records other names.
            DamageError: when ``run.json`` cannot be read.
        """
        try:
            values = json.loads(self.storage.read(RUN))
            if isinstance(values, dict) and (found := values.get("format", 0)) != FORMAT:
                raise _other_format(self.url, found, values)
            return RunRecord.model_validate(values)
        except FileNotFoundError as error:
            raise SourceError(
                what=f"{self.url} is not a run",
                evidence=f"it has no {RUN}",
                remedy="give the folder that `capfilt run` printed: the recipe's output/name",
            ) from error
        except ValueError as error:
            raise DamageError(
                what=f"{self.url}/{RUN} cannot be read",
                evidence=str(error).splitlines()[0],
                remedy="restore it from a copy of the run; the parts themselves are untouched",
            ) from error

    def create(self, record: RunRecord) -> bool:
        """Publish ``run.json``; ``False`` when the run exists already."""
        return self.storage.claim(RUN, record.model_dump_json(indent=2).encode())

    def correct(self, record: RunRecord) -> None:
        """Another ``run.json``, for a run in which nothing is committed yet."""
        self.storage.replace(RUN, record.model_dump_json(indent=2).encode())

    # -- stages -------------------------------------------------------------------------------------------

    def home(self, stage: str) -> "Ledger":
        """The ledger that holds the stage's files: this run's, or an ancestor's that it refers to."""
        return self._home(stage, self.totals(stage))

    def _home(self, stage: str, totals: StageTotals | None) -> "Ledger":
        if totals is None or totals.refers_to is None:
            return self
        return Ledger(storage_at(totals.refers_to, self.storage)).home(stage)

    def totals(self, stage: str) -> StageTotals | None:
        """The stage's totals, once it is complete."""
        try:
            return StageTotals.model_validate_json(self.storage.read(f"{stage}/_stage.json"))
        except FileNotFoundError:
            return None
        except ValidationError:  # cut short by somebody else's copy: it is derived, and made again
            return None

    def close(self, totals: StageTotals) -> None:
        """Say that a stage is complete (or that it is the parent's)."""
        failpoint("totals.before")
        self.storage.replace(f"{totals.stage}/_stage.json", totals.model_dump_json(indent=2).encode())
        failpoint("totals.after")

    def reopen(self, stage: str) -> None:
        """A shard of a complete stage has to be redone: its totals, which are derived, go."""
        self.storage.remove(f"{stage}/_stage.json")

    def index(self, stage: str) -> CommitIndex:
        """The committed parts of a stage: each shard's newest generation, quarantined parts left out.

        Storage is listed, and sizes compared with the index; only parts that the index does not know are read.
        """
        return self.look(stage)[1]

    def look(self, stage: str) -> tuple[StageTotals | None, CommitIndex]:
        """A stage's totals, if it is complete, and its index; the totals of a long stage are read once for both."""
        totals = self.totals(stage)
        return totals, IndexStore(self._home(stage, totals).storage, stage).read()

    def compact(self, stage: str) -> None:
        """Make one file of the stage's index."""
        IndexStore(self.storage, stage).compact()

    def damage(self, stage: str, name: str, evidence: str) -> DamageError:
        """The error that names a part of this run, so that it can be quarantined."""
        return IndexStore(self.storage, stage).damage(name, evidence)

    def suspect(self, stage: str, name: str, evidence: str) -> None:
        """Note what `verify` found wrong with a part, for a resume that does not reread it; "" takes it back."""
        IndexStore(self.home(stage).storage, stage).suspect(name, evidence)

    # -- committing ---------------------------------------------------------------------------------------

    def commit(self, path: Path, record: ShardRecord) -> tuple[Part, bool]:
        """Publish a finished part; the part that stands afterwards, and whether it is this one."""
        name = part_name(record.shard, record.generation)
        if not self.storage.create(f"{record.stage}/{name}", path):
            return IndexStore(self.storage, record.stage).part(name), False
        failpoint("part.published")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        part = Part(name=name, size=path.stat().st_size, sha256=digest, record=record)
        IndexStore(self.storage, record.stage).enter(part)
        failpoint("part.indexed")
        return part, True

    def committed(self, stage: str, shard: str, generation: int) -> Part | None:
        """The part that somebody else has committed meanwhile, if any."""
        name = part_name(shard, generation)
        return (
            None
            if self.storage.size(f"{stage}/{name}") is None
            else IndexStore(self.storage, stage).part(name)
        )

    def read(self, stage: str, name: str, sha256: str) -> pa.BufferReader:
        """A part's bytes, checked against the digest under which it was committed.

        Raises:
            DamageError: when the file is missing, shorter, longer or altered.
        """
        home = _home_of(self.url, stage)
        try:
            data = home.storage.read(f"{stage}/{name}")
            found = hashlib.sha256(data).hexdigest()
            evidence = f"{len(data)} bytes, sha256 {found[:12]} instead of {sha256[:12]}"
        except FileNotFoundError:
            found, evidence = "", "it is gone"
        if found != sha256:
            raise home.damage(stage, name, evidence)
        return reader_of(data)

    def quarantine(self, stage: str, name: str, schema: pa.Schema) -> None:
        """Set a damaged or superseded part aside and leave a valid part of zero rows under its name."""
        aside = uuid.uuid4().hex[:8]
        with suppress(FileNotFoundError):
            self.storage.replace(f"_quarantine/{stage}-{name}-{aside}", self.storage.read(f"{stage}/{name}"))
        if self.storage.tree(f"models/{stage}"):
            self.storage.move_tree(f"models/{stage}", f"_quarantine/models/{stage}-{aside}")
        sink = pa.BufferOutputStream()
        pq.write_table(
            schema.with_metadata({**(schema.metadata or {}), QUARANTINED: b"1"}).empty_table(), sink
        )
        stone = sink.getvalue().to_pybytes()
        self.storage.replace(f"{stage}/{name}", stone)
        digest = hashlib.sha256(stone).hexdigest()
        IndexStore(self.storage, stage).enter(Part(name=name, size=len(stone), sha256=digest, record=None))
        self.suspect(stage, name, "")
        self.reopen(stage)

    def sweep(self, stage: str) -> None:
        """Set aside the rejects of a complete stage that belong to no part: of dead attempts, of parts that went.

        Nothing of the run reads them, but whoever globs the folder would count them.
        """
        known = set(IndexStore(self.storage, stage).read().table["rejects"].to_pylist())
        folder = f"{stage}/_rejects"
        stray = [name for name, _ in self.storage.entries(folder) if f"_rejects/{name}" not in known]
        for name in stray:
            with suppress(FileNotFoundError):
                self.storage.replace(f"_quarantine/{stage}-{name}", self.storage.read(f"{folder}/{name}"))
        if stray:
            self.storage.remove(*(f"{folder}/{name}" for name in stray))

    # -- models -------------------------------------------------------------------------------------------

    def publish_model(self, directory: Path, name: str) -> str:
        """Give a finished model directory its name, and say the digest of the model that stands there.

        When the name is taken, the model under it wins.
        """
        failpoint("model.written")
        self.storage.put_tree(directory, f"models/{name}")
        failpoint("model.published")
        return self.model_digest(name)

    def model_digest(self, name: str) -> str:
        """sha256 over the names and contents of all files of a model, hex; of no files when it is gone."""
        storage = self.home(name).storage
        return digest_of_contents(
            (file, hashlib.sha256(storage.read(f"models/{name}/{file}")).hexdigest())
            for file in storage.tree(f"models/{name}")
        )

    def model(self, name: str, digest: str) -> Path:
        """A local directory with the model, which is checked against its digest once a process.

        Raises:
            DamageError: when it is not the model that was committed.
        """
        return _model(self.home(name).url, name, digest)


def _other_format(url: str, found: object, values: Mapping[str, Any]) -> RunChangedError:
    versions = values.get("versions") or {}
    by = f"capfilt {versions.get('capfilt', 'of an unknown version')} on {values.get('created', 'a day unknown')}"
    return RunChangedError(
        what=f"{url} was made by another version of capfilt, which calls stages and records otherwise",
        evidence=f"it is of format {found or 'none'}, made by {by}; this capfilt reads format {FORMAT}",
        remedy="finish and read it with the capfilt that made it, or run its recipe anew under another `name`",
    )


@cache
def _home_of(run: str, stage: str) -> Ledger:
    """Where a stage's parts lie, for who reads many of them: it is settled when the run is created."""
    return Ledger(run).home(stage)


@cache
def _model(run: str, name: str, digest: str) -> Path:
    ledger = Ledger(run)
    found = ledger.model_digest(name)
    if found != digest:
        part = next(iter(ledger.index(name).held().values()), ("", ""))[0]
        raise DamageError(
            what=f"the model {run}/models/{name} is not the one that was committed",
            evidence=f"digest {found[:12]} instead of {digest[:12]}",
            remedy=f"capfilt resume {run} sets it aside and trains it again",
            stage=name,
            part=part,
        )
    return ledger.storage.local_tree(f"models/{name}", digest)
