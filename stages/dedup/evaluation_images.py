"""Images of an evaluation set, wherever they lie: nothing of the crawl may be like them."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.fingerprint import digest_of_contents
from capfilt.stages.ingest.sources.folder import files_below
from capfilt.stages.ingest.sources.parquet import opened
from capfilt.stages.ingest.sources.source import IMAGE_COLUMNS, IMAGE_ENDINGS

_HOLDS = (*IMAGE_ENDINGS, ".parquet", ".tar")


@dataclass(frozen=True)
class EvaluationImages:
    """An image, a Parquet file with an image column, a tar of images, or a folder of such files at any depth.

    ``digest`` stands for the names and sizes of its files; where it lies is not identity.
    """

    name: str
    path: str = field(metadata={"identity": False})
    digest: str = ""

    @classmethod
    def of(cls, path: str) -> "EvaluationImages":
        """Raises :class:`RecipeError` when nothing is there that can hold images."""
        found = _files(Path(path))
        if not found:
            raise RecipeError(
                what="decontaminate: no image is there",
                evidence=f"{path} " + ("holds none" if Path(path).exists() else "does not exist"),
                remedy=f"give a folder or a file; what can hold images ends in {', '.join(sorted(_HOLDS))}",
            )
        named = ((file.relative_to(path) if file != Path(path) else file.name, file) for file in found)
        digest = digest_of_contents((name, file.stat().st_size) for name, file in named)
        return cls(Path(path).name, path, digest)

    def images(self) -> Iterator[tuple[str, bytes]]:
        """The name of every image, and its bytes."""
        for file in _files(Path(self.path)):
            if file.suffix.lower() == ".parquet":
                yield from _in_parquet(file)
            elif file.suffix.lower() == ".tar":
                yield from _in_tar(file)
            else:
                yield str(file), file.read_bytes()


def _files(path: Path) -> list[Path]:
    found = [path]
    if path.is_dir():
        found = [path / name for name, _ in sorted(files_below(path))]
    return [file for file in found if file.suffix.lower() in _HOLDS and file.is_file()]


def _in_parquet(path: Path) -> Iterator[tuple[str, bytes]]:
    with opened(path) as file:
        column = next((name for name in file.schema_arrow.names if name.lower() in IMAGE_COLUMNS), None)
        if column is None:
            raise RecipeError(
                what=f"decontaminate: {path} has no column of images",
                evidence=f"its columns: {', '.join(file.schema_arrow.names)}",
                remedy=f"name it as one of {', '.join(IMAGE_COLUMNS)}",
            )
        number = 0
        for batch in file.iter_batches(256, columns=[column]):
            for value in batch[0]:
                found: Any = value.as_py()
                data = found.get("bytes") if isinstance(found, dict) else found
                if isinstance(data, bytes):
                    yield f"{path}:{number}", data
                number += 1


def _in_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r|") as archive:
        for member in archive:
            if member.isfile() and Path(member.name).suffix.lower() in IMAGE_ENDINGS:
                content = archive.extractfile(member)
                if content is not None:
                    yield f"{path}:{member.name}", content.read()
