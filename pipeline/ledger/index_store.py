"""A stage's commit index as it lies in the run: an entry a part, which are made one file now and then.

It is derived: what is lost of it is rebuilt from the footers of the parts, which are the commits.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from capfilt.data_contracts.errors import DamageError, StorageError
from capfilt.data_contracts.ledger import ShardRecord
from capfilt.pipeline.ledger.commit_index import INDEX, CommitIndex, Part, named, newest, part_name, rows_of
from capfilt.pipeline.storage import Storage
from capfilt.pipeline.storage.failpoints import failpoint

RECORD = b"capfilt.record"
QUARANTINED = b"capfilt.tombstone"
READERS = 16
AT_ONCE = 2000  # records that are in memory as objects before they become columns


def reader_of(data: bytes) -> pa.BufferReader:
    """A file of these bytes in memory that is Arrow's own.

    Arrow's threads let go of a buffer when they like, also while the interpreter ends; letting go of Python's own
    bytes then aborts the process.
    """
    copy = pa.BufferOutputStream()
    copy.write(data)
    return pa.BufferReader(copy.getvalue())


class IndexStore:
    """The index of one stage whose parts lie in this storage."""

    def __init__(self, storage: Storage, stage: str) -> None:
        self._storage, self._stage = storage, stage

    def read(self) -> CommitIndex:
        """The newest committed parts. Storage is listed, and only parts that the index does not know are read."""
        files = self._listed(self._stage)
        listed = named(files["name"].combine_chunks())
        single = self._listed(f"{self._stage}/_commits")["name"].combine_chunks()
        single = pc.replace_substring_regex(single, r"\.json$", "")
        known = self._compacted()
        last = newest(listed)["name"].combine_chunks()
        use = pc.is_in(known["name"], last)
        if len(single):  # an entry says what is newer
            use = pc.and_(use, pc.invert(pc.is_in(known["name"], single)))
        compacted = known if pc.all(use).as_py() else known.filter(use)
        unknown = last.filter(pc.invert(pc.is_in(last, compacted["name"].combine_chunks())))
        found, damaged = self._entries(unknown.to_pylist())
        # A name whose file somebody deleted was given away too.
        given = pa.concat_tables([listed, named(known["name"].combine_chunks()), named(single)])
        notes = self._suspicions()
        wanted = set(last.filter(pc.is_in(last, pa.array(notes, pa.string()))).to_pylist())
        notes = {name: note for name, note in notes.items() if name in wanted}
        return CommitIndex.of(pa.concat_tables([compacted, found]), files, {**damaged, **notes}, given)

    def _listed(self, folder: str) -> pa.Table:
        """Names and sizes of a folder's files, as columns."""
        names, sizes = [], []
        for name, size in self._storage.entries(folder):
            names.append(name)
            sizes.append(size)
        return pa.table({"name": pa.array(names, pa.string()), "size": pa.array(sizes, pa.int64())})

    def _compacted(self) -> pa.Table:
        """The part of the index that is one file; empty when it is not there or cannot be read."""
        try:
            data = self._storage.read(f"{self._stage}/_commits/index.parquet")
            return pq.read_table(reader_of(data)).cast(INDEX)
        except (FileNotFoundError, pa.ArrowException, ValueError, OSError):
            return INDEX.empty_table()

    def _entries(self, names: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
        """Rows for the parts that the compacted index lacks, and by name what is wrong with a part's footer."""
        damaged: dict[str, str] = {}

        def look(name: str) -> Part | None:
            try:
                return self.part(name)
            except DamageError as error:
                damaged[name] = error.evidence
                return None

        rows = [INDEX.empty_table()]
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), AT_ONCE):
                found = pool.map(look, names[start : start + AT_ONCE])
                rows.append(rows_of(part for part in found if part))
        return pa.concat_tables(rows), damaged

    def compact(self) -> None:
        """Make one file of the stage's index. What two runners lose to each other by it is rebuilt from footers."""
        entries = [
            name
            for name, _ in self._storage.entries(f"{self._stage}/_commits")
            if name.endswith(".parquet.json")
        ]
        if not entries:
            return
        found, _ = self._entries([name.removesuffix(".json") for name in entries])
        known = self._compacted()
        old = pc.is_in(known["name"], found["name"].combine_chunks())
        rows = pa.concat_tables([known.filter(pc.invert(old)), found]).sort_by("name").unify_dictionaries()
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        self._storage.replace(f"{self._stage}/_commits/index.parquet", sink.getvalue().to_pybytes())
        failpoint("index.compacted")
        self._storage.remove(*(f"{self._stage}/_commits/{name}" for name in entries))

    def part(self, name: str) -> Part:
        """A part as its own index entry has it; an entry that a kill prevented is rebuilt from the footer."""
        try:
            return Part.model_validate_json(self._storage.read(f"{self._stage}/_commits/{name}.json"))
        except (FileNotFoundError, ValidationError):
            return self._from_footer(name)

    def _from_footer(self, name: str) -> Part:
        try:
            data = self._storage.read(f"{self._stage}/{name}")
            file = pq.ParquetFile(reader_of(data), page_checksum_verification=True)
            metadata = file.metadata.metadata or {}
            record = None if QUARANTINED in metadata else ShardRecord.model_validate_json(metadata[RECORD])
            if record and part_name(record.shard, record.generation) != name:
                raise ValueError(f"it is the part of shard {record.shard}, generation {record.generation}")
            for group in range(file.num_row_groups):  # the digest noted now has to be that of a whole file
                file.read_row_group(group)
        except (pa.ArrowException, KeyError, ValueError, OSError) as error:
            raise self.damage(name, f"its footer or a page: {str(error).splitlines()[0]}") from error
        part = Part(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), record=record)
        with suppress(StorageError):  # a copy may be read-only, and is looked at all the same
            self.enter(part)
        return part

    def enter(self, part: Part) -> None:
        """Write a part's own entry."""
        self._storage.replace(f"{self._stage}/_commits/{part.name}.json", part.model_dump_json().encode())

    def damage(self, name: str, evidence: str) -> DamageError:
        """The error that names a part of this run, so that it can be quarantined."""
        return DamageError(
            what=f"{self._storage.url}/{self._stage}/{name} is damaged",
            evidence=evidence,
            remedy=f"capfilt resume {self._storage.url} sets it aside and redoes its shard",
            stage=self._stage,
            part=name,
        )

    def suspect(self, name: str, evidence: str) -> None:
        """Note what `verify` found wrong with a part, for a resume that does not reread it; "" takes it back."""
        note = f"_quarantine/{self._stage}-{name}.found"
        if evidence:
            self._storage.replace(note, evidence.encode())
        else:
            self._storage.remove(note)

    def _suspicions(self) -> dict[str, str]:
        """What :meth:`suspect` noted, by the part's name."""
        notes = [name for name, _ in self._storage.entries("_quarantine") if name.endswith(".found")]
        own = [name for name in notes if name.startswith(f"{self._stage}-part-")]
        return {
            name.removeprefix(f"{self._stage}-").removesuffix(".found"): self._storage.read(
                f"_quarantine/{name}"
            ).decode()
            for name in own
        }
