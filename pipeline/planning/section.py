"""A section of the recipe, and the kinds of values that its keys have."""

import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)

from capfilt.data_contracts.units import bytes_of
from capfilt.pipeline.storage import is_url


class Section(BaseModel):
    """Keys of a recipe. They do not change, and none is unknown; of numbers and truth values nothing is converted,
    besides a whole number where any number may be."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Element = TypeVar("Element")
Listed = Annotated[
    tuple[Element, ...], Strict(False)
]  # YAML has lists, a section that does not change has tuples


def _below(value: str, info: ValidationInfo) -> str:
    """``value`` below the folder in the context of validation; without one, and empty, it stays as it is."""
    if not value or not isinstance(info.context, Path):
        return value
    return os.path.normpath(info.context / Path(value).expanduser())


def _below_unless_url(value: str, info: ValidationInfo) -> str:
    value = value.removeprefix("file://")
    return value if is_url(value) else _below(value, info)


def _below_if_there(value: str, info: ValidationInfo) -> str:
    here = isinstance(info.context, Path) and (info.context / value).exists()
    return _below(value, info) if here or value.startswith((".", "/", "~")) else value


# Relative ones are relative to the recipe's folder: `load` makes them absolute.
LocalPath = Annotated[str, AfterValidator(_below), WithJsonSchema({"type": "string", "format": "path"})]
PathOrUrl = Annotated[
    str, AfterValidator(_below_unless_url), WithJsonSchema({"type": "string", "format": "path or url"})
]
# A folder that is there, or that is named as one; whatever else there is names a model of the hub, or a preset.
ModelName = Annotated[
    str, AfterValidator(_below_if_there), WithJsonSchema({"type": "string", "format": "model"})
]
Bytes = Annotated[
    int, BeforeValidator(bytes_of), WithJsonSchema({"type": ["integer", "string"], "format": "size"})
]
