"""The recipe: what a user writes. docs/recipe.md and docs/recipe.schema.json are made from these classes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from capfilt.models.images.decode import MOST_PIXELS, Limits
from capfilt.models.protocols import Decoding
from capfilt.pipeline.planning.model_keys import ModelsKeys
from capfilt.pipeline.planning.placement import PlacementKeys
from capfilt.pipeline.planning.section import Bytes, Listed, LocalPath, ModelName, PathOrUrl, Section
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.clean.select import SelectRule
from capfilt.stages.dedup.find_duplicates import DedupSettings
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.sources.source import Format
from capfilt.stages.ingest.texts import TextRule, TextRules


class SourceKeys(Section):
    """Where images and texts are (docs/sources.md)."""

    path: PathOrUrl = Field(description="a file, a folder or a glob")
    format: Format | None = Field(default=None, description="left out: recognised by what is there")
    name: str = Field(default="", description="tells its rows from those of other sources")
    captions: LocalPath = Field(default="", description="a table of texts beside a folder of images")
    file_column: str = Field(
        default="", description="this and the next three: left out, recognised by their names"
    )
    text_column: str = Field(default="", description="texts")
    url_column: str = Field(default="", description="urls, or what names an image")
    image_column: str = Field(default="", description="image bytes")
    keep_columns: Listed[str] = Field(
        default=(), description="columns that go along to the export, in `extra`"
    )


class FetchKeys(Section):
    """How the web is asked (docs/fetching.md)."""

    allow_private: Listed[str] = Field(
        default=FetchPolicy.allow_private,
        description="private networks that may be connected to, as in [10.0.0.0/8]",
    )
    max_bytes: int = Field(default=FetchPolicy.max_bytes, description="largest body, as sent and unpacked")
    max_redirects: int = Field(default=FetchPolicy.max_redirects, description="most redirects of a url")
    robots: bool = Field(default=FetchPolicy.robots, description="ask for robots.txt and heed it")
    takedown: LocalPath | None = Field(default=None, description="a file of what is not fetched")
    user_agent: str | None = Field(default=None, description="who asks; left out: capfilt and its version")
    timeout: float = Field(default=FetchPolicy.timeout, description="seconds of one try")
    min_rate: int = Field(default=FetchPolicy.min_rate, description="bytes a second")
    threads: int = Field(default=FetchPolicy.threads, description="urls at once in a shard")
    per_host: int = Field(default=FetchPolicy.per_host, description="of them to one host")
    retries: int = Field(default=FetchPolicy.retries, description="tries after the first")
    shard_deadline: float = Field(
        default=FetchPolicy.shard_deadline, description="seconds after which the rest of a shard leaves"
    )
    preflight: int = Field(
        default=200, ge=0, description="urls of a large list that are tried first; 0: none"
    )


def _none_is_off(given: object) -> object:
    return 0 if given is None or given is False else given


class ImagesKeys(Section):
    """Which images are taken."""

    max_pixels: int = Field(default=Limits.max_pixels, ge=1, le=MOST_PIXELS, description="most pixels")
    max_aspect: float = Field(default=Limits.max_aspect, ge=1.0, description="longer side by shorter side")
    min_side: int = Field(default=Limits.min_side, ge=1, description="shorter side in pixels")
    placeholder: Annotated[
        int, BeforeValidator(_none_is_off, json_schema_input_type=int | Literal[False] | None)
    ] = Field(
        default=10,
        ge=0,
        description="in so many rows, under unrelated texts, an image is a placeholder; 0: never",
    )

    @field_validator("placeholder")
    @classmethod
    def _many(cls, rows: int) -> int:
        if rows == 1:
            raise ValueError("one row is not many: 0 (off), or 2 and more")
        return rows


class TextsKeys(Section):
    """Which web texts leave; their images stay."""

    rules: Listed[Annotated[TextRule, Field(strict=False)]] = Field(
        default=TextRules.rules, description="rules that web texts leave by; []: none"
    )
    min_length: int = Field(default=TextRules.min_length, ge=0, description="fewest characters")
    max_length: int = Field(default=TextRules.max_length, ge=1, description="most characters")


class GuardKeys(Section):
    """What is no caption and leaves."""

    min_words: int = Field(default=CaptionGuard.min_words, description="fewer words are too short; 0: off")
    repeats: int = Field(
        default=CaptionGuard.repeats, description="a phrase so often in a row is a loop; 0: off"
    )
    prompt_echo: bool = Field(default=CaptionGuard.prompt_echo, description="begins with the prompt")


class CaptionKeys(Section):
    """How captions are decoded."""

    strategy: Literal["nucleus", "top_k", "greedy", "beam"] = Field(
        default=Decoding.strategy, description="BLIP's is nucleus"
    )
    top_p: float = Field(default=Decoding.top_p, description="the nucleus to draw from, above 0 and up to 1")
    top_k: int = Field(default=Decoding.top_k, description="how many tokens to draw from, with top_k")
    per_image: int = Field(default=Decoding.per_image, description="captions an image")
    min_tokens: int = Field(default=Decoding.min_tokens, description="shortest caption, after the prompt")
    max_tokens: int = Field(default=Decoding.max_tokens, description="longest caption, after the prompt")
    repetition_penalty: float | None = Field(
        default=Decoding.repetition_penalty,
        description="above 1 repeats less; left out: BLIP's, 1.1 when drawing, else none",
    )
    beams: int = Field(default=Decoding.beams, description="how many, with beam")
    prompt: str | None = Field(
        default=None,
        description="what captions go on from, or a chat model is asked; left out: the model's own",
    )
    guard: GuardKeys = GuardKeys()
    keep: Literal["all", "best"] = Field(
        default="all", description="best: of an image's captions the one that the filter likes most"
    )


class DedupKeys(Section):
    """When two images are one (docs/alignment.md); without this section nothing is deduplicated."""

    similarity: float = Field(
        default=DedupSettings.similarity, description="cosine of embeddings, from which ..."
    )
    hash_beside: int = Field(
        default=DedupSettings.hash_beside, description="... with at most so many of 256 hash bits"
    )
    hash_alone: int = Field(
        default=DedupSettings.hash_alone, description="so few bits decide without embeddings"
    )
    search: Literal["auto", "exact", "ivf"] = Field(
        default=DedupSettings.search, description="auto: exact up to 100,000 images"
    )
    memory: Bytes = Field(default=DedupSettings.memory, description="what the search may hold, such as 4GB")
    model: ModelName | None = Field(default=None, description="what embeds; left out: the run's own model")
    merge_texts: bool = Field(
        default=False, description="gather on the image that stays what the others said"
    )


class KeepFraction(Section):
    """The best so many of all scored texts."""

    keep_fraction: float = Field(gt=0.0, le=1.0, description="such as 0.3")


class PrecisionTarget(Section):
    """The lowest threshold at which so many kept texts match, as far as held-out human pairs show."""

    precision: float = Field(gt=0.0, lt=1.0, description="such as 0.95")


class RecallTarget(Section):
    """The highest threshold at which so many matching texts are kept."""

    recall: float = Field(gt=0.0, le=1.0, description="such as 0.95")


Threshold = (
    Literal["calibrated"]
    | Annotated[float, Field(ge=0.0, le=1.0)]
    | KeepFraction
    | PrecisionTarget
    | RecallTarget
)


class BalanceKeys(Section):
    """Pairs of too frequent words leave the export (docs/alignment.md)."""

    cap: int = Field(ge=1, description="about how many pairs a word may have")
    words: LocalPath | None = Field(default=None, description="a file of the words that count, one a line")


class SelectKeys(Section):
    """Which texts stay."""

    threshold: Threshold = Field(
        default="calibrated",
        description="probability of a match (ITM) from which a text stays, or what sets it",
    )
    rule: Annotated[SelectRule, Field(strict=False)] = Field(
        default=SelectRule.BOTH,
        description="both: all such texts; best: one an image; raw_else_synthetic: web texts, else synthetic ones",
    )
    balance: BalanceKeys | None = None


class ExportKeys(Section):
    """What the cleaned dataset holds."""

    images: Literal["embed", "reference", "ids"] = Field(
        default="embed", description="reference: bytes stay in `ingest`; ids: a list of the subset"
    )
    takedown: LocalPath | None = Field(default=None, description="a file of what must not be published")


class ShardKeys(Section):
    """How much a shard holds."""

    target: Bytes = Field(default=256 * 10**6, ge=1, description="bytes of images, such as 256MB")
    rows: int = Field(default=10_000, ge=1, description="rows of a list of urls")


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


LocalPaths = Annotated[
    Listed[LocalPath], BeforeValidator(_listed, json_schema_input_type=LocalPath | Listed[LocalPath])
]


class Recipe(Section):
    """What a run is to do: sources, models, rules. :func:`capfilt.load_recipe` reads one from a file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run")
    output: PathOrUrl = Field(description="the run lies in OUTPUT/NAME: a folder, s3://, gs:// or az://")
    seed: int = Field(default=0, ge=0, description="draws models' weights, the order of training, captions")
    web: Listed[SourceKeys] = Field(description="what is to be cleaned: a source, or a list of them")
    human: Listed[SourceKeys] = Field(default=(), description="human pairs: a source, or a list of them")
    models: ModelsKeys
    fetch: FetchKeys = FetchKeys()
    images: ImagesKeys = ImagesKeys()
    texts: TextsKeys = TextsKeys()
    caption: CaptionKeys = CaptionKeys()
    dedup: DedupKeys | None = None
    decontaminate: LocalPaths = Field(
        default=(), description="evaluation images that must not be in the export: paths (docs/alignment.md)"
    )
    select: SelectKeys = SelectKeys()
    export: ExportKeys = ExportKeys()
    shards: ShardKeys = ShardKeys()
    placement: Mapping[str, PlacementKeys] = Field(
        default={}, description="by stage, as `capfilt plan` names them: where its workers run"
    )
    poison_limit: int = Field(default=20, ge=0, description="rows of a stage that may kill their process")

    @field_validator("web", "human", mode="before", json_schema_input_type=SourceKeys | Listed[SourceKeys])
    @classmethod
    def _named(cls, given: object, info: ValidationInfo) -> object:
        """Every source gets a name."""
        sources = [given] if isinstance(given, Mapping) else given
        if not isinstance(sources, Sequence) or isinstance(sources, str):
            return given
        return [
            {"name": info.field_name if len(sources) == 1 else f"{info.field_name}-{number}", **source}
            if isinstance(source, Mapping)
            else source
            for number, source in enumerate(sources, 1)
        ]

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

    def plain(self) -> dict[str, object]:
        """The recipe as JSON types, defaults included; :func:`~capfilt.pipeline.planning.load.parse` reads it."""
        return self.model_dump(mode="json", exclude_none=True)
