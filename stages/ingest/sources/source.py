"""What a source is, where its files lie, and the columns that are recognised when the recipe names none."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from capfilt.data_contracts.errors import SourceError

Format = Literal["urls", "folder", "coco", "webdataset", "img2dataset", "parquet"]

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path", "url")
TEXT_COLUMNS = ("text", "caption", "captions", "alt", "alt_text", "texts", "txt")
URL_COLUMNS = ("url", "path", "file", "file_name", "key", "id")
LINK_COLUMNS = ("url", "image_url", "link", "src")
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
IMAGE_ENDINGS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"])


@dataclass(frozen=True)
class SourceSpec:
    """A source of a recipe. ``digest`` stands for what the listing saw; where it lies is not identity."""

    name: str
    format: Format
    path: str = field(metadata={"identity": False})
    captions: str = field(default="", metadata={"identity": False})
    file_column: str = ""
    text_column: str = ""
    url_column: str = ""
    image_column: str = ""
    keep_columns: tuple[str, ...] = ()
    digest: str = ""


def root(spec: SourceSpec) -> Path:
    """The folder that names of the source's files are relative to: the last one before any wildcard."""
    path = Path(spec.path)
    if path.is_dir():
        return path
    while not path.exists() and glob.has_magic(str(path)):
        path = path.parent
    return path if path.is_dir() else path.parent


def files(spec: SourceSpec, endings: Sequence[str]) -> dict[str, Path]:
    """The files of a source by their name below :func:`root`, sorted: a file, a glob, or what a folder holds.

    Only a folder is searched by ``endings``; a file or a glob says itself which files are meant.

    Raises:
        SourceError: when there are none, or the path is a url of an object store.
    """
    if "://" in spec.path:
        raise SourceError(
            what=f"source {spec.name}: sources are read from folders that every node sees, not from a store",
            evidence=spec.path,
            remedy="mount the bucket, or copy the files first (aws s3 sync, gcloud storage rsync)",
        )
    path, base = Path(spec.path), root(spec)
    if path.is_dir():
        found = [f for f in path.rglob("*") if f.name.lower().endswith(tuple(endings)) and f.is_file()]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.iglob(spec.path, recursive=True) if Path(name).is_file()]
    if not found:
        raise SourceError(
            what=f"source {spec.name}: there is no file to read",
            evidence=f"{spec.path} "
            + (f"holds no {', '.join(endings)}" if path.is_dir() else "matches no file"),
            remedy="give a file, a folder or a glob; paths are relative to the recipe's own folder",
        )
    return {file.relative_to(base).as_posix(): file for file in sorted(found)}


def choose(named: str, recognised: Sequence[str], columns: Iterable[str], what: str, key: str) -> str:
    """The column that the recipe names, or the first one that is recognised, in any case.

    Raises:
        SourceError: when there is none.
    """
    by_lower = {column.lower(): column for column in columns}
    if named:
        if named not in by_lower.values():
            raise SourceError(
                what=f"{what} has no column {named!r}",
                evidence=f"its columns: {', '.join(by_lower.values())}",
                remedy=f"set `{key}` to one of them",
            )
        return named
    for name in recognised:
        if name in by_lower:
            return by_lower[name]
    raise SourceError(
        what=f"no column of {what} is recognised as {key.removesuffix('_column')}",
        evidence=f"its columns: {', '.join(by_lower.values())}; looked for {', '.join(recognised)}",
        remedy=f"set `{key}` in the recipe",
    )


def clean_texts(texts: Iterable[object]) -> list[str]:
    """Texts with white space folded; empty ones and repetitions are left out, the order is kept."""
    folded = (" ".join(str(text).split()) for text in texts if text is not None)
    return list(dict.fromkeys(text for text in folded if text))
