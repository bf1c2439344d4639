"""What a source is, and the columns that are recognised when the recipe names none."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from data_contracts.errors import SourceError

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path", "url")
TEXT_COLUMNS = ("text", "caption", "captions", "alt", "texts")
URL_COLUMNS = ("url", "path", "file", "file_name", "key", "id")
IMAGE_COLUMNS = ("image", "jpg", "png", "image_bytes", "bytes")


@dataclass(frozen=True)
class SourceSpec:
    """A source of a recipe. ``digest`` stands for what the listing saw; where it lies is not identity."""

    name: str
    format: Literal["folder", "parquet"]
    path: str = field(metadata={"identity": False})
    captions: str = field(default="", metadata={"identity": False})
    file_column: str = ""
    text_column: str = ""
    url_column: str = ""
    image_column: str = ""
    digest: str = ""


class Listed(NamedTuple):
    """One place in a source. ``problem`` says why it cannot be used; ``group`` keeps places together."""

    url: str
    texts: list[str]
    place: str
    size: int
    problem: str = ""
    group: str = ""


class Listing(NamedTuple):
    places: list[Listed]
    notes: tuple[str, ...]


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
