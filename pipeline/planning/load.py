"""A recipe from a YAML file: read, changed by `--set`, checked; its errors name the key and the nearest known one."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from capfilt.data_contracts.errors import RecipeError
from capfilt.models.engine.precision import fast_precision
from capfilt.pipeline.planning.model_keys import LoopKeys
from capfilt.pipeline.planning.recipe_yaml import RepeatedKeyError, read_yaml
from capfilt.pipeline.planning.schema import Recipe

Location = Sequence[str | int]


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with ``a.b=c`` changes applied and its paths made absolute.

    Raises:
        RecipeError: the file, a key or a value cannot be used.
    """
    try:
        values = read_yaml(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(what=f"there is no recipe {path}", remedy="give the path of a YAML file") from error
    except RepeatedKeyError as error:
        raise RecipeError(
            what=f"{path}: the key {error.key} is given twice",
            evidence="in lines {} and {}".format(*error.lines),
            remedy="keep one of them",
        ) from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise RecipeError(what=f"{path} cannot be read as YAML", evidence=str(error)) from error
    if not isinstance(values, dict):
        raise RecipeError(what=f"{path} is not a recipe", evidence="it has no keys at its top level")
    for change in changes:
        _apply(values, change)
    return _settled(parse(values, path.resolve().parent))


def parse(values: Mapping[str, object], folder: Path | None = None) -> Recipe:
    """Checked values; paths below ``folder`` if it is given, otherwise as they are.

    Raises:
        RecipeError: with the key, and the nearest one for an unknown key.
    """
    try:
        return Recipe.model_validate(values, context=folder)
    except ValidationError as error:
        found = error.errors()
        first = min(found, key=lambda one: one["type"] != "extra_forbidden")
        raise (_unknown(first) if first["type"] == "extra_forbidden" else _unusable(first, found)) from error


def _unknown(error: ErrorDetails) -> RecipeError:
    *place, key = error["loc"]
    where, sections = _walk(place)
    known = sorted({name for section in sections for name in section.model_fields})
    near = difflib.get_close_matches(str(key), known, 1)
    return RecipeError(
        what=f"unknown recipe key {'.'.join([*where, str(key)])}",
        evidence=f"known here: {', '.join(known)}",
        remedy=f"did you mean {near[0]!r}?" if near else "remove it",
    )


def _unusable(first: ErrorDetails, found: Sequence[ErrorDetails]) -> RecipeError:
    by_key: dict[str, list[ErrorDetails]] = {}
    for one in found:
        by_key.setdefault(".".join(_walk(one["loc"])[0]), []).append(one)
    where = next(key for key, errors in by_key.items() if first in errors)
    said = dict.fromkeys(one["msg"][:1].lower() + one["msg"][1:] for one in by_key[where])
    others = [key for key in by_key if key != where]
    given = f"given: {first['input']!r}" if first["type"] != "missing" else "it is not there"
    return RecipeError(
        what=f"recipe key {where}: {'; or '.join(said)}",
        evidence=given + (f"; more is wrong with {', '.join(others)}" if others else ""),
        remedy="docs/recipe.md has all keys and their values",
    )


def _walk(location: Location) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of an error's location, without the members of unions that pydantic names in it as well; and the
    sections that may be there."""
    keys: list[str] = []
    sections: list[type[BaseModel]] = [Recipe]
    named = False  # a mapping's next part is a name that the user gave
    for part in location:
        holders = [section for section in sections if part in section.model_fields]
        if holders:
            fields = [section.model_fields[str(part)] for section in holders]
            sections = [one for field in fields for one in _sections(field.annotation)]
            named = any(_maps(field.annotation) for field in fields)
        elif isinstance(part, int) or named:
            named = False
        elif chosen := [section for section in sections if section.__name__ == part]:
            sections = chosen
            continue
        else:
            continue
        keys.append(str(part))
    return keys, sections


def _sections(annotation: object) -> list[type[BaseModel]]:
    """The sections inside an annotation such as ``tuple[Section, ...]`` or ``Section | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]


def _maps(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) is Mapping


def _apply(values: dict[str, object], change: str) -> None:
    """``select.threshold=0.7`` on nested dictionaries; the value is read as YAML."""
    path, sign, text = change.partition("=")
    if not sign or not path:
        raise RecipeError(what=f"--set {change}: not of the form a.b=c", remedy="--set select.threshold=0.7")
    *folders, last = path.split(".")
    place: object = values
    for folder in folders:
        if isinstance(place, list) and folder.isdigit() and int(folder) < len(place):
            place = place[int(folder)]
        elif isinstance(place, dict):
            if not isinstance(place.get(folder), dict | list):
                place[folder] = {}
            place = place[folder]
        else:
            raise RecipeError(what=f"--set {change}: {folder} cannot be reached")
    if not isinstance(place, dict):
        raise RecipeError(what=f"--set {change}: {last} cannot be set there")
    try:
        place[last] = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(what=f"--set {change}: {text} cannot be read as YAML") from error


def _settled(recipe: Recipe) -> Recipe:
    """With the precisions that are fast here: a run must not depend on the machine that carries it on.

    Trainings compute in bfloat16 on GPUs: on CPUs its backward pass is slower than float32's.
    """

    def gpu(*stages: str) -> bool:
        return any(recipe.placement[stage].gpus for stage in stages if stage in recipe.placement)

    models = recipe.models
    trainings: dict[str, LoopKeys | None] = {
        "warmup": models.warmup,
        "pretrain": models.pretrain,
        "filter": models.filter,
        "captioner": models.captioner,
    }
    update: dict[str, object] = {
        stage: keys.model_copy(update={"precision": "bf16" if gpu(stage) else "fp32"})
        for stage, keys in trainings.items()
        if keys is not None and keys.precision is None
    }
    if models.precision == "auto":
        update["precision"] = fast_precision(gpu("caption", "score"))
    return recipe.model_copy(update={"models": models.model_copy(update=update)})
