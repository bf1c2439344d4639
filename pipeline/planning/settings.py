"""Settings of stages and models from the keys of a recipe's section."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


def settings_of(default: Settings, keys: BaseModel | None, seed: int) -> Settings:
    """``default`` with what ``keys`` give under the same names; a key without a value keeps the default.

    Settings that draw have a field ``seed``, and get the recipe's.
    """
    names = {field.name for field in fields(default)} - {"seed"}
    given = {name: value for name in names if (value := getattr(keys, name, None)) is not None}
    seeded = {"seed": seed} if hasattr(default, "seed") else {}
    return replace(default, **given, **seeded)
