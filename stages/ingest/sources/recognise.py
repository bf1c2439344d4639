"""Which format a path has, when the recipe does not say."""

from collections import Counter
from itertools import islice
from pathlib import Path

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources import folder, img2dataset, parquet, tables, webdataset
from capfilt.stages.ingest.sources.source import IMAGE_COLUMNS, IMAGE_ENDINGS, Format, SourceSpec, files

LOOKED_AT = 10_000


def format_of(spec: SourceSpec) -> Format:
    """The format that a path can only have; ``spec.format`` is not looked at.

    Raises:
        SourceError: when nothing or more than one thing is there, with what was found.
    """
    path = Path(spec.path)
    if spec.captions:
        return "coco" if tables.ending(Path(spec.captions)) == ".json" else "folder"
    if path.is_dir():
        if any((path / name).is_file() for name in folder.TABLES):
            return "folder"
        if any(img2dataset.SHARD.fullmatch(one.name) for one in path.glob("*.parquet")) and any(
            path.glob("*_stats.json")
        ):
            return "img2dataset"
    endings = (*IMAGE_ENDINGS, *webdataset.ENDINGS, *parquet.ENDINGS, *tables.ENDINGS)
    found = list(islice(files(spec, endings).values(), LOOKED_AT))
    kinds = Counter(_kind(file) for file in found)
    if len(kinds) == 1:
        (kind,) = kinds
        if kind == ".tar":
            return "webdataset"
        if kind == ".parquet":
            return _in_parquet(found[0])
        if kind in tables.READERS:
            return "urls"
    raise SourceError(
        what=f"source {spec.name}: it is not clear what {spec.path} holds",
        evidence=", ".join(f"{count} {kind or 'without an ending'}" for kind, count in kinds.most_common(5)),
        remedy="set `format` to urls, folder, coco, webdataset, img2dataset or parquet "
        "(images in a folder need a caption table: `captions`)",
    )


def _kind(file: Path) -> str:
    ending = tables.ending(file)
    return "image" if ending in IMAGE_ENDINGS else ending


def _in_parquet(path: Path) -> Format:
    """With a column of images it holds images, without one it is a list."""
    with parquet.opened(path) as file:
        names = {name.lower() for name in file.schema_arrow.names}
    return "urls" if names.isdisjoint(IMAGE_COLUMNS) else "parquet"
