"""Fingerprints of configuration: the same meaning gives the same digest, on any machine, in any process."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from capfilt.data_contracts.errors import RecipeError


def identity_of(value: object, where: str = "value") -> Any:
    """``value`` as plain JSON types, dataclasses as their class's name and fields.

    Raises:
        RecipeError: for anything without a stable identity: a callable, a set, an open file, a NaN, an infinity.
    """
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Enum):
        return identity_of(value.value, where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: identity_of(getattr(value, field.name), f"{where}.{field.name}")
            for field in dataclasses.fields(value)
            if field.metadata.get("identity", True)
        }
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): identity_of(item, f"{where}.{key}") for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [identity_of(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise RecipeError(
        what=f"cannot fingerprint {where}: a {type(value).__name__} has no stable identity",
        evidence=repr(value)[:80],
        remedy="make the value a dataclass, an Enum, a number or a string",
    )


def fingerprint(identity: Any) -> str:
    """sha256 of the canonical JSON of what :func:`identity_of` gave, hex."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_of_contents(contents: Iterable[tuple[object, object]]) -> str:
    """sha256 over names, in their order, each with what stands for its content: a digest, or a size; hex."""
    seen = hashlib.sha256()
    for name, content in contents:
        seen.update(f"{name}\x1f{content}\x1e".encode("utf-8", "surrogateescape"))
    return seen.hexdigest()


def first_difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """The first field that differs, as (dotted path, old value, new value); ``None`` when nothing does."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [(key, f"{where}.{key}" if where else key) for key in sorted(old.keys() | new.keys())]
        pairs = [(old.get(key), new.get(key), place) for key, place in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [
            (one, other, f"{where}[{index}]") for index, (one, other) in enumerate(zip(old, new, strict=True))
        ]
    else:
        return None if old == new else (where, old, new)
    return next((found for pair in pairs if (found := first_difference(*pair))), None)
