"""WebDataset tars: members of the same key, up to the first dot of their name, are one sample.

Only headers and texts are read to list a tar, and nothing is ever unpacked: an image's place is its tar, offset
and size, so a member's name can do no harm.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.sources.digest import digest_of_files
from capfilt.stages.ingest.sources.entries import Listed, Notes, batched, extra_of
from capfilt.stages.ingest.sources.source import (
    IMAGE_ENDINGS,
    TEXT_COLUMNS,
    SourceSpec,
    choose,
    clean_texts,
    files,
    root,
)

ENDINGS = (".tar",)
TEXT_ENDINGS = (".txt", ".caption", ".text")
LARGEST = 1 << 20  # bytes of a text or of a JSON object that is still read
CUT = "tars are cut off or damaged: what is whole is listed, the rest left out"


class Member(NamedTuple):
    """A file in a tar: what belongs to one sample has the same key; ``ending`` is the rest of its name."""

    key: str
    ending: str
    offset: int
    size: int


def digest(spec: SourceSpec) -> str:
    """That of :func:`digest_of_files`."""
    return digest_of_files(_tars(spec))


def _tars(spec: SourceSpec) -> dict[str, Path]:
    found = files(spec, ENDINGS)
    for path in found.values():
        if path.suffix.lower() != ".tar":
            raise SourceError(
                what=f"source {spec.name}: {path} is no plain tar",
                evidence="images are read from the middle of a tar, which cannot be compressed",
                remedy="unpack it with gunzip (images hardly get smaller anyway), or leave it out of the glob",
            )
    return found


def entries(spec: SourceSpec, notes: Notes) -> Iterator[pa.RecordBatch]:
    """Every sample with an image, tar after tar."""
    return batched(row for name, path in _tars(spec).items() for row in _samples(spec, name, path, notes))


def _samples(spec: SourceSpec, name: str, path: Path, notes: Notes) -> Iterator[Listed]:
    seen: set[str] = set()
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        for parts in _grouped(members(path, notes)):
            key = parts[0].key
            image = next((part for part in parts if part.ending in IMAGE_ENDINGS), None)
            if image is None:
                notes.add("samples without an image are left out", f"{name}: {key[:200]}")
                continue
            if key in seen:
                notes.add("samples repeat a key of their tar and are left out", f"{name}: {key[:200]}")
                continue
            seen.add(key)
            texts, about = _about(spec, file, parts, f"{name}: {key[:200]}", notes)
            url = about.get(spec.url_column or "url")
            cut = image.offset + image.size > length
            yield Listed(
                str(url) if url else f"{name}/{key}{image.ending}",
                texts,
                f"{name}:{image.offset}:{image.size}",
                image.size,
                group=name,
                problem="the tar ends in the middle of it" if cut else None,
                reason=Reason.UNREADABLE,
                extra=extra_of(about, spec.keep_columns),
            )


def _grouped(members: Iterable[Member]) -> Iterator[list[Member]]:
    """The members of a sample stand together; an ending that comes again begins another one of the same key."""
    held: list[Member] = []
    for member in members:
        if held and (member.key != held[0].key or member.ending in {other.ending for other in held}):
            yield held
            held = []
        held.append(member)
    if held:
        yield held


def members(path: Path, notes: Notes) -> Iterator[Member]:
    """The regular files in a tar up to its end, or to where it is damaged.

    Raises:
        SourceError: when it is no tar at all.
    """
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            while True:
                member = tar.next()
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member is None:
                    break
                if member.isreg() and not member.issparse():
                    key, ending = _split(member.name)
                    yield Member(key, ending, member.offset_data, member.size)
                elif not member.isdir():
                    notes.add("links and other members that are no files are left out", path.name)
                if member.offset_data + member.size > length:
                    notes.add(CUT, path.name)
                    return
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                notes.add(CUT, path.name)
    except tarfile.ReadError as error:
        if not length or "unexpected end" in str(error):
            notes.add(CUT, path.name)
            return
        raise SourceError(
            what=f"{path} is no tar",
            evidence=str(error),
            remedy="leave it out of the source, or fetch it again",
        ) from error


def _split(name: str) -> tuple[str, str]:
    """As webdataset does: the ending begins at the first dot of the last part of the name; it is lower case."""
    folder, slash, last = name.rpartition("/")
    key, dot, ending = last.partition(".")
    return f"{folder}{slash}{key}", f"{dot}{ending}".lower()


def _about(
    spec: SourceSpec, file: BinaryIO, parts: list[Member], where: str, notes: Notes
) -> tuple[list[str], dict[str, Any]]:
    """A sample's texts, and the object in its JSON member."""
    texts: list[Any] = []
    about: dict[str, Any] = {}
    for part in parts:
        if part.ending not in (*TEXT_ENDINGS, ".json"):
            continue
        if part.size > LARGEST:
            notes.add("texts of more than 1 MiB are left out", where)
            continue
        data = os.pread(file.fileno(), part.size, part.offset)
        if part.ending != ".json":
            texts.append(data.decode("utf-8", "replace"))
            continue
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            about = value
        else:
            notes.add("JSON members that are no object are left out", where)
    if about and (spec.text_column or not texts):
        texts = _text_in(spec, about)
    return clean_texts(texts), about


def _text_in(spec: SourceSpec, about: dict[str, Any]) -> list[Any]:
    if spec.text_column or not {name.lower() for name in about}.isdisjoint(TEXT_COLUMNS):
        named = spec.text_column if spec.text_column in about else ""
        if spec.text_column and not named:
            return []
        value = about[choose(named, TEXT_COLUMNS, about, "a JSON member", "text_column")]
        return value if isinstance(value, list) else [value]
    return []


def reader(spec: SourceSpec) -> Callable[[str], bytes]:
    """The function that reads a place's bytes."""

    def read(place: str) -> bytes:
        name, offset, size = place.rsplit(":", 2)
        with (root(spec) / name).open("rb") as file:
            return os.pread(file.fileno(), int(size), int(offset))

    return read
