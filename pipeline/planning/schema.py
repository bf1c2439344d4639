"""The recipe: what a user writes. Strict: an unknown key is refused, with the nearest known one."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.units import bytes_of
from capfilt.models.engine.precision import fast_precision
from capfilt.models.images.decode import MOST_PIXELS, Limits
from capfilt.models.protocols import Decoding, Precision
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)
from capfilt.pipeline.planning.placement import PlacementKeys
from capfilt.pipeline.storage import is_url
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.clean.select import SelectRule
from capfilt.stages.dedup.find_duplicates import DedupSettings
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.sources.source import Format
from capfilt.stages.ingest.texts import TextRule, TextRules


def _switch(value: object) -> object:
    """YAML reads `on` and `off` as truth values."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceKeys(Strict):
    """Where images and texts are. ``path`` and ``captions`` are relative to the recipe's folder.

    Without a ``format`` the plan looks at what is there. ``keep_columns`` go along to the export, in `extra`.
    """

    name: str = ""
    format: Format | None = None
    path: str
    captions: str = ""
    file_column: str = ""
    text_column: str = ""
    url_column: str = ""
    image_column: str = ""
    keep_columns: tuple[str, ...] = ()


def _keys(name: str, settings: type, **extra: Any) -> type[Strict]:
    """Recipe keys for a settings dataclass: each optional, the dataclass's own default where it is absent.

    ``seed`` is left out: a recipe has one seed.
    """
    hints = {key: hint for key, hint in get_type_hints(settings).items() if key != "seed"}
    fields: dict[str, Any] = {key: (hint | None, None) for key, hint in hints.items()}
    return create_model(name, __base__=Strict, **{**fields, **extra})


_Where = (str | None, None)
WarmupKeys = _keys("WarmupKeys", WarmupSettings, images=_Where, labels=_Where)
PretrainKeys = _keys("PretrainKeys", PretrainSettings, from_run=_Where)
FilterKeys = _keys("FilterKeys", FilterSettings, checkpoint=_Where)
CaptionerKeys = _keys("CaptionerKeys", CaptionerSettings, checkpoint=_Where)
GuardKeys = _keys("GuardKeys", CaptionGuard)
CaptionKeys = _keys(
    "CaptionKeys", Decoding, guard=(GuardKeys | None, None), keep=(Literal["all", "best"], "all")
)


class ParentsKeys(Strict):
    """Directories of a plain ViT and a plain BERT to start from, as BLIP's pretraining does."""

    vision: str
    text: str


class ModelsKeys(Strict):
    """Models brought (`checkpoint`) or trained here, from ``init``: a preset, a model directory, or two parents.

    ``precision`` is that of captioning and scoring; ``auto``, what this machine is fast at, is settled when the
    recipe is loaded, and the run keeps it. ``itm_token`` overrides what the filter records. ``rehearsal`` on web
    texts when finetuning, beyond BLIP: ``auto`` is on where the human captions are narrower than the web.
    """

    init: str | ParentsKeys | None = None
    precision: Literal["auto"] | Precision = "auto"
    itm_token: Literal["cls", "enc"] | None = None
    rehearsal: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"
    tokenizer: str = "wordpiece:8000"
    warmup: WarmupKeys | None = None  # type: ignore[valid-type]  # made by create_model above
    pretrain: PretrainKeys | None = None  # type: ignore[valid-type]
    filter: FilterKeys  # type: ignore[valid-type]
    captioner: CaptionerKeys  # type: ignore[valid-type]


# How the web is asked; ``takedown`` names a file, ``preflight`` is how many urls of a large list are tried first.
FetchKeys = _keys(
    "FetchKeys", FetchPolicy, takedown=(str | None, None), preflight=(Annotated[int, Field(ge=0)], 200)
)


class KeepFraction(Strict):
    keep_fraction: float = Field(gt=0.0, le=1.0)


class PrecisionTarget(Strict):
    precision: float = Field(gt=0.0, lt=1.0)


class RecallTarget(Strict):
    recall: float = Field(gt=0.0, le=1.0)


Threshold = (
    Literal["calibrated"]
    | Annotated[float, Field(ge=0.0, le=1.0)]
    | KeepFraction
    | PrecisionTarget
    | RecallTarget
)


class BalanceKeys(Strict):
    """At most about ``cap`` pairs a word; ``words`` names a file of the words that count, one a line."""

    cap: int = Field(ge=1)
    words: str | None = None


class SelectKeys(Strict):
    threshold: Threshold = "calibrated"
    rule: SelectRule = SelectRule.BOTH
    balance: BalanceKeys | None = None


class ImagesKeys(Strict):
    """Which images are taken. ``placeholder``: in so many rows, under unrelated texts, it is one; 0: never."""

    max_pixels: int = Field(default=Limits.max_pixels, ge=1, le=MOST_PIXELS)
    max_aspect: float = Field(default=Limits.max_aspect, ge=1.0)
    min_side: int = Field(default=Limits.min_side, ge=1)
    placeholder: Annotated[int, Field(ge=0), BeforeValidator(lambda given: given or 0)] = 10

    @field_validator("placeholder")
    @classmethod
    def _many(cls, rows: int) -> int:
        if rows == 1:
            raise ValueError("one row is not many: 0 (off), or 2 and more")
        return rows


class TextsKeys(Strict):
    """Which web texts leave; ``rules: []`` switches all rules off, lengths stay."""

    rules: tuple[TextRule, ...] = TextRules.rules
    min_length: int = Field(default=TextRules.min_length, ge=0)
    max_length: int = Field(default=TextRules.max_length, ge=1)


# When two images are one; without the section nothing is deduplicated. ``model`` embeds them: a checkpoint, by
# default the run's own. ``merge_texts`` gathers what a group's images said on the one that stays.
DedupKeys = _keys(
    "DedupKeys",
    DedupSettings,
    memory=(Annotated[int, BeforeValidator(bytes_of)] | None, None),
    model=(str | None, None),
    merge_texts=(bool, False),
)


class ExportKeys(Strict):
    """``takedown`` names a file of what must not be published; a fork with another one redoes the export alone."""

    takedown: str | None = None
    images: Literal["embed", "reference", "ids"] = "embed"


class ShardKeys(Strict):
    """How much a shard holds: ``target`` bytes of images, or ``rows`` of a list of urls."""

    target: Annotated[int, Field(ge=1), BeforeValidator(bytes_of)] = 256 * 10**6
    rows: int = Field(default=10_000, ge=1)


STAGES = (
    *("list_web", "list_human", "preflight", "human", "ingest", "placeholders", "list_cleaned", "cleaned"),
    *("tokenizer", "warmup", "pretrain", "word_coverage", "rank_web", "filter", "screen_web", "captioner"),
    *("score_held_out", "calibrate", "audit_captions", "evaluate"),
    *("embed", "embed_held_out", "dedup", "caption", "score", "threshold", "select", "balance", "export"),
)


def _stage(name: str) -> str:
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, 1, 0.0)[0]
        raise ValueError(f"no stage is called {name!r}, did you mean {near!r}?")
    return name


class Recipe(Strict):
    """What a run is to do: sources, models, rules. :func:`capfilt.load_recipe` reads one from a file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output: str
    seed: int = Field(default=0, ge=0)
    web: tuple[SourceKeys, ...]
    human: tuple[SourceKeys, ...] = ()
    fetch: FetchKeys = FetchKeys()  # type: ignore[valid-type]
    images: ImagesKeys = ImagesKeys()
    texts: TextsKeys = TextsKeys()
    models: ModelsKeys
    caption: CaptionKeys = CaptionKeys()  # type: ignore[valid-type]
    dedup: DedupKeys | None = None  # type: ignore[valid-type]
    decontaminate: tuple[str, ...] = ()
    select: SelectKeys = SelectKeys()
    export: ExportKeys = ExportKeys()
    shards: ShardKeys = ShardKeys()
    placement: dict[Annotated[str, AfterValidator(_stage)], PlacementKeys] = Field(default_factory=dict)
    poison_limit: int = Field(default=20, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        """One source or a list of them; every source gets a name."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if isinstance(values.get("decontaminate"), str):
            values["decontaminate"] = [values["decontaminate"]]
        for role in ("web", "human"):
            given = values.get(role)
            if isinstance(given, Mapping):
                given = [given]
            if isinstance(given, Sequence) and not isinstance(given, str):
                values[role] = [
                    {"name": role if len(given) == 1 else f"{role}-{number}", **source}
                    if isinstance(source, Mapping)
                    else source
                    for number, source in enumerate(given, 1)
                ]
        return values

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        """A source's name tells its rows from those of the others."""
        for sources in (self.web, self.human):
            names = [source.name for source in sources]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"two sources have the name {twice!r}")
        return self

    @model_validator(mode="after")
    def _run_is_no_source(self) -> "Recipe":
        """What a run writes would be read as a source the next time."""
        for source in (*self.web, *self.human):
            if f"{self.run}/".startswith(f"{source.path.rstrip('/')}/"):
                raise ValueError(
                    f"the run {self.run} lies in its own source {source.path}: another name or output"
                )
        return self

    @property
    def run(self) -> str:
        """Where the run lies: a folder or a url."""
        return f"{self.output.rstrip('/')}/{self.name}"

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON types, without keys that were not given; :func:`parse` reads it back."""
        return self.model_dump(mode="json", exclude_unset=False, exclude_none=True)


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with ``a.b=c`` changes applied and its paths made absolute.

    Raises:
        RecipeError: the file, a key or a value cannot be used.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(what=f"there is no recipe {path}", remedy="give the path of a YAML file") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise RecipeError(what=f"{path} cannot be read as YAML", evidence=str(error)) from error
    if not isinstance(values, dict):
        raise RecipeError(what=f"{path} is not a recipe", evidence="it has no keys at its top level")
    for change in changes:
        _apply(values, change)
    return _settled(_absolute(parse(values), path.resolve().parent))


def parse(values: Mapping[str, Any]) -> Recipe:
    """Checked values. Raises :class:`RecipeError` with the key, and the nearest one for an unknown key."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        first = min(found, key=lambda one: one["type"] != "extra_forbidden")
        where = _key(first["loc"])
        if first["type"] != "extra_forbidden":
            said = "; or ".join(
                one["msg"][:1].lower() + one["msg"][1:] for one in found if _key(one["loc"]) == where
            )
            others = dict.fromkeys(key for one in found if (key := _key(one["loc"])) != where)
            given = f"given: {first['input']!r}" if first["type"] != "missing" else "it is not there"
            raise RecipeError(
                what=f"recipe key {where}: {said}",
                evidence=given + (f"; more is wrong with {', '.join(others)}" if others else ""),
                remedy="README.md, docs/sources.md, fetching.md and cluster.md have tables of keys",
            ) from error
        known = _known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        raise RecipeError(
            what=f"unknown recipe key {where}",
            evidence=f"known here: {', '.join(known)}",
            remedy=f"did you mean {near[0]!r}?" if near else "remove it",
        ) from error


def _key(path: Sequence[Any]) -> str:
    """The key that an error is about; of a union pydantic names every member that was tried."""
    keys = (str(part) for part in path if isinstance(part, int) or re.fullmatch("[a-z_0-9]+", part))
    return ".".join(keys)


def _known_keys(path: Sequence[Any]) -> list[str]:
    model: Any = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            break
        model = _model_in(model.model_fields[part].annotation)
    return sorted(model.model_fields) if model else []


def _model_in(annotation: Any) -> Any:
    """The first pydantic model inside an annotation such as ``tuple[Model, ...]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _apply(values: dict[str, Any], change: str) -> None:
    """``select.threshold=0.7`` on nested dictionaries; the value is read as YAML."""
    path, sign, text = change.partition("=")
    if not sign or not path:
        raise RecipeError(what=f"--set {change}: not of the form a.b=c", remedy="--set select.threshold=0.7")
    *folders, last = path.split(".")
    place: Any = values
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
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(what=f"--set {change}: {text} cannot be read as YAML") from error


def _absolute(recipe: Recipe, base: Path) -> Recipe:
    """Paths relative to the recipe's folder become absolute; a model that is no folder there is a hub id."""

    def path(value: str) -> str:
        return value and os.path.normpath(base / Path(value).expanduser())

    def where(value: str) -> str:
        return value if is_url(value) else path(value)

    def model(value: str | None) -> str | None:
        return (
            path(value) if value and (value.startswith((".", "/", "~")) or (base / value).exists()) else value
        )

    def sources(given: tuple[SourceKeys, ...]) -> Iterator[SourceKeys]:
        for source in given:
            # a source refuses a store itself
            yield source.model_copy(update={"path": where(source.path), "captions": path(source.captions)})

    def keys(given: Any, **update: Any) -> Any:
        return given and given.model_copy(update=update)

    models: Any = recipe.models
    fetch: Any = recipe.fetch
    dedup: Any = recipe.dedup
    balance = recipe.select.balance
    warmup, pretrain = models.warmup, models.pretrain
    return recipe.model_copy(
        update={
            "output": where(recipe.output.removeprefix("file://")),
            "fetch": keys(recipe.fetch, takedown=path(fetch.takedown or "") or None),
            "export": keys(recipe.export, takedown=path(recipe.export.takedown or "") or None),
            "dedup": keys(dedup, model=model(dedup and dedup.model)),
            "decontaminate": tuple(map(path, recipe.decontaminate)),
            "select": keys(
                recipe.select, balance=keys(balance, words=path((balance and balance.words) or "") or None)
            ),
            "web": tuple(sources(recipe.web)),
            "human": tuple(sources(recipe.human)),
            "models": models.model_copy(
                update={
                    "init": keys(models.init, vision=path(models.init.vision), text=path(models.init.text))
                    if isinstance(models.init, ParentsKeys)
                    else model(models.init),
                    "tokenizer": model(models.tokenizer),
                    "filter": keys(models.filter, checkpoint=model(models.filter.checkpoint)),
                    "captioner": keys(models.captioner, checkpoint=model(models.captioner.checkpoint)),
                    "pretrain": pretrain and keys(pretrain, from_run=where(pretrain.from_run or "") or None),
                    "warmup": warmup
                    and keys(warmup, images=path(warmup.images or ""), labels=path(warmup.labels or "")),
                }
            ),
        }
    )


def _settled(recipe: Recipe) -> Recipe:
    """With the precisions that are fast here: a run must not depend on the machine that carries it on.

    Trainings compute in bfloat16 on GPUs: on CPUs its backward pass is slower than float32's.
    """

    def gpu(*stages: str) -> bool:
        return any(recipe.placement[stage].gpus for stage in stages if stage in recipe.placement)

    models: Any = recipe.models
    update: dict[str, Any] = {
        stage: keys.model_copy(update={"precision": "bf16" if gpu(stage) else "fp32"})
        for stage in ("warmup", "pretrain", "filter", "captioner")
        if (keys := getattr(models, stage)) is not None and keys.precision is None
    }
    if models.precision == "auto":
        update["precision"] = fast_precision(gpu("caption", "score"))
    return recipe.model_copy(update={"models": models.model_copy(update=update)})


def settings_of(kind: type[Any], keys: Any, seed: int) -> Any:
    """A settings dataclass from recipe keys: what is absent keeps the dataclass's default.

    A kind that draws has a field ``seed``, and gets the recipe's.
    """
    names = get_type_hints(kind).keys()
    given = {key: getattr(keys, key, None) for key in names if key != "seed"}
    seeded = {"seed": seed} if "seed" in names else {}
    return kind(**{key: value for key, value in given.items() if value is not None}, **seeded)
