"""The ledger: what is committed in a run, and how it gets there.

The visible data file is the commit. A part is written to ``RUN/_tmp``, fsynced, and hard-linked to its
deterministic name, which fails if the name is taken: the first writer wins, and its footer holds the whole
:class:`~data_contracts.ledger.ShardRecord`. ``_commits`` is an index of what the footers say, with the size
and digest of each part; it can be lost and is rebuilt. No name is ever given to other rows: a damaged or
superseded part is copied to ``_damaged``, a valid part of zero rows takes its name, and its shard is redone
under the next generation's name.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from data_contracts.errors import DamageError, SourceError
from data_contracts.ledger import RunRecord, ShardRecord, StageTotals

RECORD = b"capfilt.record"
TOMBSTONE = b"capfilt.tombstone"
_PART = re.compile(r"^part-(?P<shard>[a-z0-9]+)(?:\.g(?P<generation>\d+))?\.parquet$")


class Part(BaseModel):
    """A committed part as the index knows it; ``record`` is null for a tombstone."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str
    record: ShardRecord | None


def part_name(shard: str, generation: int = 0) -> str:
    """The one name under which a generation of a shard can be committed."""
    return f"part-{shard}.g{generation}.parquet" if generation else f"part-{shard}.parquet"


def digest(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(directory: Path) -> str:
    """sha256 over the names and contents of all files below a folder, hex."""
    seen = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        seen.update(f"{path.relative_to(directory)}\x1f{digest(path)}\x1e".encode())
    return seen.hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Ledger:
    """One run's folder. Holds no open files and no state besides the folder's path: all of it is on disk."""

    def __init__(self, run: Path) -> None:
        self.run = run

    # -- the run ------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return (self.run / "run.json").is_file()

    def record(self) -> RunRecord:
        """The run's own record.

        Raises:
            SourceError: when the folder is not a run.
            DamageError: when ``run.json`` cannot be read.
        """
        path = self.run / "run.json"
        if not path.is_file():
            raise SourceError(
                what=f"{self.run} is not a run",
                evidence="it has no run.json",
                remedy="give the folder that `capfilt run` printed: the recipe's output/name",
            )
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DamageError(
                what=f"{path} cannot be read",
                evidence=str(error).splitlines()[0],
                remedy="restore it from a copy of the run; the parts themselves are untouched",
            ) from error

    def create(self, record: RunRecord) -> bool:
        """Publish ``run.json``; ``False`` when the run exists already."""
        self.run.mkdir(parents=True, exist_ok=True)
        with self.temporary("run.json") as path:
            path.write_text(record.model_dump_json(indent=2))
            return self.publish(path, self.run / "run.json")

    @contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        """A path under ``_tmp`` that nobody else has; removed afterwards."""
        folder = self.run / "_tmp" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder / name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, temporary: Path, target: Path) -> bool:
        """Put-if-absent: the file appears whole under its name, or the name was taken (``False``)."""
        _sync(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        _sync(target.parent)
        return True

    def sweep(self) -> None:
        """Remove what dead attempts left in ``_tmp``; for a run that is complete, where nothing needs it."""
        shutil.rmtree(self.run / "_tmp", ignore_errors=True)

    def replace(self, target: Path, text: str) -> None:
        """Write a file that is derived from others, whole or not at all."""
        with self.temporary(target.name) as path:
            path.write_text(text)
            _sync(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    # -- stages -------------------------------------------------------------------------------------------

    def home(self, stage: str) -> "Ledger":
        """The ledger that holds the stage's files: this run's, or an ancestor's that it refers to."""
        totals = self.totals(stage)
        if totals is None or totals.refers_to is None:
            return self
        return Ledger((self.run / totals.refers_to).resolve()).home(stage)

    def folder(self, stage: str) -> Path:
        return self.home(stage).run / stage

    def totals(self, stage: str) -> StageTotals | None:
        """The stage's totals, once it is complete."""
        path = self.run / stage / "_stage.json"
        return StageTotals.model_validate_json(path.read_bytes()) if path.is_file() else None

    def close(self, totals: StageTotals) -> None:
        """Say that a stage is complete (or that it is the parent's)."""
        self.replace(self.run / totals.stage / "_stage.json", totals.model_dump_json(indent=2))

    def reopen(self, stage: str) -> None:
        """A shard of a complete stage has to be redone: its totals, which are derived, go."""
        (self.run / stage / "_stage.json").unlink(missing_ok=True)

    def parts(self, stage: str) -> dict[str, Part]:
        """The committed parts of a stage by shard: each shard's newest generation, tombstones left out."""
        home = self.home(stage)
        newest: dict[str, tuple[int, str]] = {}
        for path in sorted((home.run / stage).glob("part-*.parquet")):
            if match := _PART.match(path.name):
                generation = int(match["generation"] or 0)
                newest[match["shard"]] = max(newest.get(match["shard"], (-1, "")), (generation, path.name))
        found = {shard: home.part(stage, name) for shard, (_, name) in sorted(newest.items())}
        return {shard: part for shard, part in found.items() if part.record is not None}

    def generation(self, stage: str, shard: str) -> int:
        """The generation under which a shard is to be committed.

        That of its newest part if that one stands (a commit will then lose to it), else the next one.
        """
        folder = self.run / stage
        names = {path.name for path in folder.glob(f"part-{shard}*.parquet")}
        # A name whose file somebody deleted was given away too: the index still knows it.
        names |= {path.stem for path in (folder / "_commits").glob(f"part-{shard}*.parquet.json")}
        taken = {
            int(m["generation"] or 0): m[0] for n in names if (m := _PART.match(n)) and m["shard"] == shard
        }
        if not taken:
            return 0
        newest = max(taken)
        stands = (folder / taken[newest]).exists() and self.part(stage, taken[newest]).record
        return newest if stands else newest + 1

    def part(self, stage: str, name: str) -> Part:
        """A part as the index knows it; an entry that a kill prevented is rebuilt from the footer."""
        entry = self.run / stage / "_commits" / f"{name}.json"
        try:
            return Part.model_validate_json(entry.read_bytes())
        except (FileNotFoundError, ValidationError):
            return self._index(stage, name)

    def _index(self, stage: str, name: str) -> Part:
        path = self.run / stage / name
        try:
            metadata = pq.read_metadata(path).metadata or {}
            record = None if TOMBSTONE in metadata else ShardRecord.model_validate_json(metadata[RECORD])
        except (pa.ArrowException, KeyError, ValidationError, OSError) as error:
            raise DamageError(
                what=f"the footer of {path} cannot be read",
                evidence=str(error).splitlines()[0],
                remedy=f"capfilt resume {self.run} sets it aside and redoes its shard",
                stage=stage,
                part=name,
            ) from error
        part = Part(name=name, size=path.stat().st_size, sha256=digest(path), record=record)
        self.replace(self.run / stage / "_commits" / f"{name}.json", part.model_dump_json())
        return part

    # -- committing ---------------------------------------------------------------------------------------

    def commit(self, path: Path, record: ShardRecord) -> tuple[Part, bool]:
        """Publish a finished part; the part that stands afterwards, and whether it is this one."""
        name = part_name(record.shard, record.generation)
        won = self.publish(path, self.run / record.stage / name)
        # Whoever won writes the index anew: an entry of a part that somebody deleted may still be there.
        return (self._index if won else self.part)(record.stage, name), won

    def read(self, stage: str, part: Part) -> pa.BufferReader:
        """A part's bytes, checked against the digest under which it was committed.

        Raises:
            DamageError: when the file is missing, shorter, longer or altered.
        """
        path = self.folder(stage) / part.name
        try:
            data = path.read_bytes()
            found = hashlib.sha256(data).hexdigest()
            evidence = f"{len(data)} of {part.size} bytes, sha256 {found[:12]} instead of {part.sha256[:12]}"
        except OSError as error:
            found, evidence = "", str(error)
        if found != part.sha256:
            raise DamageError(
                what=f"{path} is damaged",
                evidence=evidence,
                remedy=f"capfilt resume {self.home(stage).run} sets it aside and redoes its shard",
                stage=stage,
                part=part.name,
            )
        return pa.BufferReader(data)

    def suspect(self, stage: str, name: str, evidence: str) -> None:
        """Note what `verify` found wrong with a part, for a resume that does not reread it; "" takes it back."""
        note = self._note(stage, name)
        if evidence:
            self.home(stage).replace(note, evidence)
        else:
            note.unlink(missing_ok=True)

    def suspicion(self, stage: str, name: str) -> str:
        """What `verify` found wrong with a part; empty when nothing."""
        note = self._note(stage, name)
        return note.read_text() if note.exists() else ""

    def _note(self, stage: str, name: str) -> Path:
        return self.home(stage).run / "_damaged" / f"{stage}-{name}.found"

    def bury(self, stage: str, name: str, schema: pa.Schema) -> None:
        """Set a damaged or superseded part aside and leave a valid part of zero rows under its name."""
        path = self.run / stage / name
        aside = self.run / "_damaged" / f"{stage}-{name}-{uuid.uuid4().hex[:8]}"
        aside.parent.mkdir(exist_ok=True)
        if path.exists():
            shutil.copyfile(path, aside)
        with self.temporary(name) as stone:
            pq.write_table(
                schema.with_metadata({**(schema.metadata or {}), TOMBSTONE: b"1"}).empty_table(), stone
            )
            _sync(stone)
            stone.replace(path)
        (self.run / stage / "_commits" / f"{name}.json").unlink(missing_ok=True)
        self.suspect(stage, name, "")
        self.reopen(stage)

    # -- models -------------------------------------------------------------------------------------------

    def model(self, name: str) -> Path:
        return self.home(name).run / "models" / name

    def publish_model(self, directory: Path, name: str) -> str:
        """Move a finished model directory to its name, and give the digest of the model that stands there.

        When the name is taken, the model under it wins.
        """
        for path in directory.rglob("*"):
            _sync(path)
        target = self.run / "models" / name
        target.parent.mkdir(exist_ok=True)
        try:
            directory.rename(target)
        except OSError as error:
            if not target.is_dir():
                raise error
        _sync(target.parent)
        return tree_digest(target)
