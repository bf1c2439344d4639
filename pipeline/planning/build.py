"""From a recipe to a graph of stages with fingerprints: pure, besides looking at sources and models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from capfilt.data_contracts.errors import RecipeError
from capfilt.models.images.decode import Limits
from capfilt.models.open import ModelFacts, check_model, digest_of
from capfilt.models.protocols import Decoding, Inference
from capfilt.models.statistics.threshold_target import ThresholdTarget
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.models import add_models, demand_human, inference_of
from capfilt.pipeline.planning.recipe_words import errors_in_recipe_words
from capfilt.pipeline.planning.schema import CaptionKeys, PrecisionTarget, RecallTarget, Recipe, SourceKeys
from capfilt.pipeline.planning.settings import settings_of
from capfilt.stages.clean.balance import Balance, CountWords, WordList
from capfilt.stages.clean.caption import WriteCaptions
from capfilt.stages.clean.caption_guard import CaptionGuard
from capfilt.stages.clean.export import ExportIds, ExportPairs
from capfilt.stages.clean.score import ScorePairs
from capfilt.stages.clean.select import FractionThreshold, SelectPairs
from capfilt.stages.dedup.embed import EmbedImages
from capfilt.stages.dedup.embed_held_out import EmbedHeldOut
from capfilt.stages.dedup.evaluation_images import EvaluationImages
from capfilt.stages.dedup.find_duplicates import DedupSettings, FindDuplicates
from capfilt.stages.dedup.neighbours import require_faiss
from capfilt.stages.evaluation.audit_captions import AuditCaptions
from capfilt.stages.evaluation.calibrate import Calibrate
from capfilt.stages.evaluation.evaluate import Evaluate
from capfilt.stages.evaluation.score_held_out import ScoreHeldOut
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.takedown import TakeDownFile
from capfilt.stages.ingest.ingest import IngestHuman, IngestImages
from capfilt.stages.ingest.list_source import KINDS, ListSource
from capfilt.stages.ingest.placeholders import FindPlaceholders
from capfilt.stages.ingest.preflight import Preflight
from capfilt.stages.ingest.sources.recognise import format_of
from capfilt.stages.ingest.sources.source import SourceSpec
from capfilt.stages.ingest.texts import TextRule, TextRules
from capfilt.stages.stage import BroughtModel, ModelRef, TrainedModel


class Plan(Graph):
    """The stages of a recipe in an order in which they can run.

    Raises:
        RecipeError: what the recipe asks for cannot be done, or it places a stage that is not there.
        SourceError: a source cannot be listed.
        ModelError: a checkpoint cannot be used for its role.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        with errors_in_recipe_words():
            _Builder(self, recipe).build()
        for name in recipe.placement:
            self.demand(name, f"placement.{name}")


class _Builder:
    """Turns recipe keys into stages; what the recipe leaves out is not in the plan."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan, self.recipe = plan, recipe

    def build(self) -> None:
        recipe, plan = self.recipe, self.plan
        self._ingest()
        models, inference = add_models(plan, recipe), inference_of(recipe.models)
        decoding = decoding_of(recipe.caption, recipe.seed, models.facts.get("captioner"))
        if recipe.human:
            plan.add("score_held_out", ScoreHeldOut(models.filter, recipe.seed, inference), "human")
            audit = AuditCaptions(models.filter, models.captioner, decoding, inference)
            plan.add("audit_captions", audit, "human")
            above = ("human", "ingest", "score_held_out", "audit_captions")
            plan.add("evaluate", Evaluate(models.filter, recipe.seed, inference), *above)
        guard = settings_of(CaptionGuard(), recipe.caption.guard, recipe.seed)
        unique = self._unique(models.filter, inference)
        captions = WriteCaptions(models.captioner, decoding, guard, inference)
        plan.add("caption", captions, "ingest", *unique)
        plan.add("score", ScorePairs(models.filter, inference), "ingest", "caption", *unique)
        self._select(models.facts.get("filter"))
        self._export()

    # -- what comes in ------------------------------------------------------------------------------------

    def _ingest(self) -> None:
        recipe, plan = self.recipe, self.plan
        limits = settings_of(Limits(), recipe.images, recipe.seed)
        rules = tuple(rule for rule in TextRule if rule in recipe.texts.rules)  # their order says nothing
        texts = TextRules(rules, recipe.texts.min_length, recipe.texts.max_length)
        web = tuple(self._source(source) for source in recipe.web)
        plan.add("list_web", ListSource(web, recipe.shards.target, rows=recipe.shards.rows))
        if recipe.human:
            human = tuple(self._source(source) for source in recipe.human)
            plan.add("list_human", ListSource(human, recipe.shards.target, "h", recipe.shards.rows))
            plan.add("human", IngestHuman(human, limits, policy=self._policy(human)), "list_human")
        policy, upstream = self._policy(web), ["list_web"]
        if policy:
            fetched = tuple(source.name for source in web if KINDS[source.format].fetched)
            plan.add("preflight", Preflight(fetched, policy, recipe.fetch.preflight), "list_web")
            upstream.append("preflight")
        plan.add("ingest", IngestImages(web, limits, texts, policy), *upstream)
        if recipe.images.placeholder:
            plan.add("placeholders", FindPlaceholders(recipe.images.placeholder), "ingest")

    def _source(self, keys: SourceKeys) -> SourceSpec:
        spec = SourceSpec(**keys.model_dump())
        if keys.format is None:
            spec = replace(spec, format=format_of(spec))
        return replace(spec, digest=KINDS[spec.format].digest(spec))

    def _policy(self, sources: Sequence[SourceSpec]) -> FetchPolicy | None:
        """How to fetch, when some source has to be."""
        if not any(KINDS[source.format].fetched for source in sources):
            return None
        keys = self.recipe.fetch
        takedown = TakeDownFile.of(keys.takedown) if keys.takedown else None
        policy = settings_of(FetchPolicy(), keys.model_copy(update={"takedown": None}), self.recipe.seed)
        return replace(policy, takedown=takedown)

    # -- what goes on -------------------------------------------------------------------------------------

    def _unique(self, filter: ModelRef, inference: Inference) -> tuple[str, ...]:
        """The stages that say which images are captioned at all; none when the recipe asks for no such thing."""
        recipe, keys = self.recipe, self.recipe.dedup
        if keys is None and not recipe.decontaminate:
            return ()
        require_faiss()
        model = TrainedModel("pretrain") if "pretrain" in self.plan.nodes else filter
        if keys and keys.model:
            facts = check_model(keys.model, "filter")
            model = BroughtModel(digest_of(keys.model), facts.where)
        self.plan.add("embed", EmbedImages(model, inference), "ingest")
        upstream = ["embed"]
        if recipe.human or recipe.decontaminate:
            sets = tuple(map(EvaluationImages.of, recipe.decontaminate))
            human = ("human",) if recipe.human else ()
            self.plan.add("embed_held_out", EmbedHeldOut(model, sets, inference), *human)
            upstream.append("embed_held_out")
        like = settings_of(DedupSettings(), keys, recipe.seed)
        merge = bool(keys and keys.merge_texts)
        upstream += ["ingest"] if merge else []
        self.plan.add("dedup", FindDuplicates(like, keys is not None, merge), *upstream)
        return ("dedup",)

    # -- what to keep -------------------------------------------------------------------------------------

    def _select(self, filter: ModelFacts | None) -> None:
        select = self.recipe.select
        threshold: float | None = None
        upstream = ["score"]
        if select.threshold == "calibrated" or isinstance(select.threshold, PrecisionTarget | RecallTarget):
            self._calibrate(select.threshold)
            upstream.append("calibrate")
        elif isinstance(select.threshold, float | int):
            _demand_probability(filter)
            threshold = float(select.threshold)
        else:
            self.plan.add("threshold", FractionThreshold(select.threshold.keep_fraction), "score")
            upstream.append("threshold")
        if self.recipe.images.placeholder:
            upstream.append("placeholders")
        self.plan.add(
            "select", SelectPairs(select.rule, threshold, self.recipe.caption.keep == "best"), *upstream
        )

    def _calibrate(self, threshold: Literal["calibrated"] | PrecisionTarget | RecallTarget) -> None:
        demand_human(
            self.recipe, f"select.threshold: {threshold if threshold == 'calibrated' else 'a target'}"
        )
        target, upstream = None, ["score_held_out"]
        if isinstance(threshold, PrecisionTarget):
            target = ThresholdTarget("precision", threshold.precision)
            upstream.append("score")  # what is precise depends on how many of the crawl's texts match
        elif isinstance(threshold, RecallTarget):
            target = ThresholdTarget("recall", threshold.recall)
        self.plan.add("calibrate", Calibrate(self.recipe.seed, target), *upstream)

    def _export(self) -> None:
        images, path = self.recipe.export.images, self.recipe.export.takedown
        kind = ExportIds if images == "ids" else ExportPairs
        stage = kind(embed=images == "embed", takedown=TakeDownFile.of(path) if path else None)
        human = ("human",) if self.recipe.human else ()
        counted: tuple[str, ...] = ()
        if keys := self.recipe.select.balance:
            words = WordList.of(keys.words) if keys.words else None
            balance = Balance(keys.cap, self.recipe.seed, words)
            self.plan.add("balance", CountWords(balance), "score", "select")
            stage, counted = replace(stage, balance=balance), ("balance",)
        self.plan.add("export", stage, "ingest", *human, "score", "select", *counted)


def _demand_probability(facts: ModelFacts | None) -> None:
    """A number is a threshold for probabilities alone. ``facts`` are those of a filter that was brought."""
    if facts and not facts.probability:
        raise RecipeError(
            what="select.threshold: a number needs a filter that gives the probability of a match",
            evidence=f"{facts.where} is a {facts.model_type} model: its itm is (1 + cosine) / 2, which ranks "
            "texts and says no more",
            remedy="set select.threshold to {keep_fraction: 0.3} or, with human pairs, to calibrated",
        )


def decoding_of(keys: CaptionKeys, seed: int, facts: ModelFacts | None) -> Decoding:
    """How captions are decoded by recipe keys; the prompt, if they have none, is the captioner's own.

    ``facts`` are those of a checkpoint that was brought; without them the captioner is trained here.
    """
    decoding = settings_of(Decoding(), keys, seed)
    return decoding if facts is None or keys.prompt is not None else replace(decoding, prompt=facts.prompt)
