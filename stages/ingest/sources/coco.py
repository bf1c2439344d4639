"""COCO captions: a JSON file with `images` and `annotations`, beside a folder of images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources import folder
from capfilt.stages.ingest.sources.entries import Listed, Notes, batched, extra_of
from capfilt.stages.ingest.sources.folder import digest_of, existing, files_below, problem_of
from capfilt.stages.ingest.sources.source import SourceSpec, clean_texts

reader = folder.reader


def digest(spec: SourceSpec) -> str:
    """sha256 over the caption file's bytes and the names and sizes of the folder's files, hex."""
    return digest_of(_caption_file(spec), existing(spec))


def _caption_file(spec: SourceSpec) -> Path:
    path = Path(spec.captions)
    if spec.captions and path.is_file():
        return path
    raise SourceError(
        what=f"source {spec.name}: COCO needs its caption file",
        evidence=f"captions: {spec.captions}: no such file" if spec.captions else "`captions` is not given",
        remedy="give captions: annotations/captions_train2017.json, and in `path` the folder of the images",
    )


def entries(spec: SourceSpec, notes: Notes) -> Iterator[pa.RecordBatch]:
    """Every image of the file with its captions. The file is whole in memory: COCO's largest has 92 MB."""
    return batched(_rows(spec, notes))


def _rows(spec: SourceSpec, notes: Notes) -> Iterator[Listed]:
    path = _caption_file(spec)
    images, annotations = _parts(path)
    texts: dict[Any, list[Any]] = {}
    for annotation in annotations:
        texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
    sizes = dict(files_below(existing(spec)))
    for image in images:
        name = str(image["file_name"])
        yield Listed(
            *(name, clean_texts(texts.pop(image["id"], ())), name, sizes.get(name, 0)),
            problem=problem_of(name, sizes),
            extra=extra_of(image, spec.keep_columns),
        )
    if texts:
        stray = sum(map(len, texts.values()))
        notes.add(f"captions in {path.name} are of no image in it and are left out", count=stray)


def _parts(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images and annotations, each with the keys that are needed."""
    try:
        found = json.loads(path.read_bytes())
        parts = found["images"], found["annotations"]
        for part, keys in zip(parts, (("id", "file_name"), ("image_id", "caption")), strict=True):
            for one in part:
                if missing := [key for key in keys if key not in one]:
                    raise KeyError(missing[0])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SourceError(
            what=f"{path} is no COCO caption file",
            evidence=f"{type(error).__name__}: {error}",
            remedy="it must be JSON with `images` (id, file_name) and `annotations` (image_id, caption)",
        ) from error
    return parts
