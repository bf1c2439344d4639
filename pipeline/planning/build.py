"""From a recipe to a graph of stages with fingerprints: pure, besides looking at sources and models."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from capfilt.data_contracts.errors import RecipeError
from capfilt.models.checkpoint import ROLES, Role, locate_family
from capfilt.models.engine.precision import fast_precision
from capfilt.models.images.decode import Limits
from capfilt.models.med.config import preset
from capfilt.models.open import ENGINE, ModelFacts, check_model, digest_of
from capfilt.models.protocols import Decoding, Inference
from capfilt.models.statistics.threshold_target import ThresholdTarget
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.parent_run import cleaned_of
from capfilt.pipeline.planning.schema import (
    ParentsKeys,
    PrecisionTarget,
    RecallTarget,
    Recipe,
    SourceKeys,
    settings_of,
)
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
from capfilt.stages.stage import BroughtModel, ModelRef, Stage, TrainedModel
from capfilt.stages.training.finetune import FinetuneCaptioner, FinetuneFilter
from capfilt.stages.training.pretrain import Pretrain
from capfilt.stages.training.rank_web import RankWeb
from capfilt.stages.training.screen_web import ScreenWeb
from capfilt.stages.training.start import Fresh, Parents, Start
from capfilt.stages.training.tokenizer import TrainTokenizer
from capfilt.stages.training.warm_up import WarmUp, WarmUpOnLabels
from capfilt.stages.training.word_coverage import MeasureWordCoverage


class Plan(Graph):
    """The stages of a recipe in an order in which they can run."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        _Builder(self, recipe).build()


class _Builder:
    """Turns recipe keys into stages; what the recipe leaves out is not in the plan."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self.plan, self.recipe = plan, recipe
        self.models: Any = recipe.models
        self.facts: dict[Role, ModelFacts] = {}  # of the checkpoints that the recipe names

    def build(self) -> None:
        recipe, plan = self.recipe, self.plan
        limits = settings_of(Limits, recipe.images, recipe.seed)
        rules = tuple(rule for rule in TextRule if rule in recipe.texts.rules)  # their order says nothing
        texts = TextRules(rules, recipe.texts.min_length, recipe.texts.max_length)
        web = tuple(self._source(source) for source in recipe.web)
        plan.add("list_web", ListSource(web, recipe.shards.target, rows=recipe.shards.rows))
        if recipe.human:
            human = tuple(self._source(source) for source in recipe.human)
            plan.add("list_human", ListSource(human, recipe.shards.target, "h", recipe.shards.rows))
            plan.add("human", IngestHuman(human, limits, policy=self._policy(human)), "list_human")
        policy, upstream = self._policy(web), ["list_web"]
        keys: Any = recipe.fetch
        if policy:
            fetched = tuple(source.name for source in web if KINDS[source.format].fetched)
            plan.add("preflight", Preflight(fetched, policy, keys.preflight), "list_web")
            upstream.append("preflight")
        plan.add("ingest", IngestImages(web, limits, texts, policy), *upstream)
        if recipe.images.placeholder:
            plan.add("placeholders", FindPlaceholders(recipe.images.placeholder), "ingest")
        filter, captioner = self._models()
        inference = inference_of(self.models)
        if recipe.human:
            plan.add("score_held_out", ScoreHeldOut(filter, recipe.seed, inference), "human")
        decoding = decoding_of(recipe.caption, recipe.seed, self.facts.get("captioner"))
        if recipe.human:
            plan.add("audit_captions", AuditCaptions(filter, captioner, decoding, inference), "human")
            plan.add(
                "evaluate",
                Evaluate(filter, recipe.seed, inference),
                "human",
                "ingest",
                "score_held_out",
                "audit_captions",
            )
        guard = settings_of(CaptionGuard, recipe.caption.guard, recipe.seed)  # type: ignore[attr-defined]
        unique = self._unique(filter, inference)
        plan.add("caption", WriteCaptions(captioner, decoding, guard, inference), "ingest", *unique)
        plan.add("score", ScorePairs(filter, inference), "ingest", "caption", *unique)
        self._select()
        self._export()

    def _source(self, keys: SourceKeys) -> SourceSpec:
        spec = SourceSpec(**keys.model_dump())
        if keys.format is None:
            spec = replace(spec, format=format_of(spec))
        return replace(spec, digest=KINDS[spec.format].digest(spec))

    def _policy(self, sources: Sequence[SourceSpec]) -> FetchPolicy | None:
        """How to fetch, when some source has to be."""
        if not any(KINDS[source.format].fetched for source in sources):
            return None
        keys: Any = self.recipe.fetch
        takedown = TakeDownFile.of(keys.takedown) if keys.takedown else None
        given = keys.model_copy(update={"takedown": None})
        policy: FetchPolicy = settings_of(FetchPolicy, given, self.recipe.seed)
        return replace(policy, takedown=takedown)

    def _demand_human(self, what: str) -> None:
        if not self.recipe.human:
            raise RecipeError(
                what=f"{what} needs human pairs",
                evidence="the recipe has no `human` source",
                remedy="add one, or bring checkpoints for both models and set select.threshold to a number",
            )

    # -- models -------------------------------------------------------------------------------------------

    def _models(self) -> tuple[ModelRef, ModelRef]:
        models = self.models
        brought = {
            "filter": self._brought("filter", models.filter),
            "captioner": self._brought("captioner", models.captioner),
        }
        seed = self.recipe.seed
        trained = {
            role
            for role, keys in (("filter", models.filter), ("captioner", models.captioner))
            if brought[role] is None or keys.steps
        }
        fresh: list[Role] = [role for role in ROLES if role in trained and brought[role] is None]
        start: Start | None = self._pretrained(fresh) if fresh else None
        for role in sorted(trained, reverse=True):  # the filter first
            self._demand_human(f"training the {role}")
            if "word_coverage" not in self.plan.nodes:
                self.plan.add("word_coverage", MeasureWordCoverage(), "human", "ingest")
            begin = brought[role] or start
            assert begin is not None
            if role == "filter":
                from capfilt.models.training.settings import FilterSettings

                rehearses = self._align(begin)
                filter_keys = settings_of(FilterSettings, models.filter, seed)
                stage: Stage = FinetuneFilter(begin, filter_keys, bool(rehearses))
            else:
                from capfilt.models.training.settings import CaptionerSettings

                rehearses = self._vet("filter" in trained, brought["filter"])
                settings = settings_of(CaptionerSettings, models.captioner, seed)
                stage = FinetuneCaptioner(begin, settings, bool(rehearses))
            self.plan.add(role, stage, "human", *rehearses)
        refs = {role: TrainedModel(role) if role in trained else ref for role, ref in brought.items()}
        return refs["filter"], refs["captioner"]  # type: ignore[return-value]  # none is left None

    def _align(self, start: Start) -> tuple[str, ...]:
        """What the filter rehearses on: the web texts of which the pretrained model is sure, if there is one."""
        if self.models.rehearsal == "off" or not isinstance(start, BroughtModel | TrainedModel):
            return ()
        if start == TrainedModel("warmup"):  # its encoders have never been compared with each other
            return ()
        inference = replace(inference_of(self.models), itm_token=None)  # the encoders have no such token
        self.plan.add("rank_web", RankWeb(start, inference, self._always), "ingest", "word_coverage")
        return ("ingest", "rank_web")

    def _vet(self, trained: bool, brought: BroughtModel | None) -> tuple[str, ...]:
        """What the captioner rehearses on: the web texts that the filter keeps.

        A filter that was trained here on human pairs alone is as blind as the captioner would be, and one that
        gives no probability has no threshold.
        """
        facts = self.facts.get("filter")
        usable = "rank_web" in self.plan.nodes if trained else bool(facts and facts.probability)
        if self.models.rehearsal == "off" or not usable:
            return ()
        filter = TrainedModel("filter") if trained else brought
        assert filter is not None
        stage = ScreenWeb(filter, inference_of(self.models), self._always)
        self.plan.add("screen_web", stage, "ingest", "word_coverage")
        return ("ingest", "screen_web")

    @property
    def _always(self) -> bool:
        return bool(self.models.rehearsal == "on")

    def _brought(self, role: Role, keys: Any) -> BroughtModel | None:
        """The checkpoint that the recipe names for a role, looked at before anything runs."""
        if not keys.checkpoint:
            return None
        facts = self.facts[role] = check_model(keys.checkpoint, role)
        if keys.steps and facts.model_type not in ENGINE:
            raise RecipeError(
                what=f"models.{role}: finetuning starts from BLIP checkpoints and models that capfilt trained",
                evidence=f"{keys.checkpoint} is a {facts.model_type} checkpoint and steps is {keys.steps}",
                remedy="use it as it is (steps: 0), or give `models.init` and train from there",
            )
        return BroughtModel(digest_of(keys.checkpoint), facts.where)

    def _pretrained(self, trained: Sequence[Role]) -> Start:
        """The model that both finetunings start from, with the stages that make it."""
        models, seed = self.models, self.recipe.seed
        self._demand_human("training")
        if not models.init:
            raise RecipeError(
                what="a model is to be trained, but from what?",
                evidence="models.init is absent, and filter or captioner names no checkpoint",
                remedy="set models.init to a preset (tiny, small, base, large) or a model directory",
            )
        start: Start
        if isinstance(models.init, ParentsKeys):
            vision, text = models.init.vision, models.init.text
            locate_family(vision, "vit")
            locate_family(text, "bert")
            start = Parents(
                BroughtModel(digest_of(vision), vision), BroughtModel(digest_of(text), text), seed
            )
        elif os.path.isdir(models.init) or "/" in models.init:
            for role in ROLES if models.pretrain is not None else trained:
                facts = check_model(models.init, role)
            start = BroughtModel(digest_of(models.init), facts.where)
        else:
            preset(models.init)  # refuses an unknown name here, not on a worker
            start = Fresh(models.init, self._tokenizer(), seed)
        if models.warmup is not None:
            from capfilt.models.training.settings import WarmupSettings

            settings = settings_of(WarmupSettings, models.warmup, seed)
            if models.warmup.images or models.warmup.labels:
                images, labels = models.warmup.images or "", models.warmup.labels or ""
                digest = _digest_of_files(Path(images), Path(labels))
                self.plan.add("warmup", WarmUpOnLabels(start, settings, images, labels, digest))
            else:
                self.plan.add("warmup", WarmUp(start, settings), "human")
            start = TrainedModel("warmup")
        if models.pretrain is not None:
            from capfilt.models.training.settings import PretrainSettings

            settings = settings_of(PretrainSettings, models.pretrain, seed)
            upstream = ["human", "ingest"]
            if models.pretrain.from_run:
                listing, cleaned = cleaned_of(models.pretrain.from_run)
                self.plan.add("list_cleaned", listing)
                self.plan.add("cleaned", cleaned, "list_cleaned")
                upstream.append("cleaned")
            self.plan.add("pretrain", Pretrain(start, settings), *upstream)
            start = TrainedModel("pretrain")
        return start

    def _tokenizer(self) -> ModelRef:
        given = self.models.tokenizer
        if match := re.fullmatch(r"wordpiece:(\d+)", given):
            self.plan.add("tokenizer", TrainTokenizer(int(match[1])), "human", "ingest")
            return TrainedModel("tokenizer")
        path = Path(given) / "tokenizer.json"
        if not path.is_file():
            raise RecipeError(
                what=f"models.tokenizer: {given} is no tokenizer",
                evidence=f"there is no {path}",
                remedy="give wordpiece:SIZE, or a directory with tokenizer.json",
            )
        return BroughtModel(hashlib.sha256(path.read_bytes()).hexdigest(), given)

    # -- what goes on -------------------------------------------------------------------------------------

    def _unique(self, filter: ModelRef, inference: Inference) -> tuple[str, ...]:
        """The stages that say which images are captioned at all; none when the recipe asks for no such thing."""
        recipe, keys = self.recipe, self.recipe.dedup
        asked: Any = keys
        if keys is None and not recipe.decontaminate:
            return ()
        require_faiss()
        model = TrainedModel("pretrain") if "pretrain" in self.plan.nodes else filter
        if asked is not None and asked.model:
            facts = check_model(asked.model, "filter")
            model = BroughtModel(digest_of(asked.model), facts.where)
        self.plan.add("embed", EmbedImages(model, inference), "ingest")
        upstream = ["embed"]
        if recipe.human or recipe.decontaminate:
            sets = tuple(map(EvaluationImages.of, recipe.decontaminate))
            human = ("human",) if recipe.human else ()
            self.plan.add("embed_held_out", EmbedHeldOut(model, sets, inference), *human)
            upstream.append("embed_held_out")
        like: DedupSettings = settings_of(DedupSettings, keys, recipe.seed)
        merge = bool(asked and asked.merge_texts)
        upstream += ["ingest"] if merge else []
        self.plan.add("dedup", FindDuplicates(like, keys is not None, merge), *upstream)
        return ("dedup",)

    # -- what to keep -------------------------------------------------------------------------------------

    def _select(self) -> None:
        select = self.recipe.select
        threshold: float | None = None
        upstream = ["score"]
        if select.threshold == "calibrated" or isinstance(select.threshold, PrecisionTarget | RecallTarget):
            self._calibrate(select.threshold)
            upstream.append("calibrate")
        elif isinstance(select.threshold, float | int):
            self._demand_probability()
            threshold = float(select.threshold)
        else:
            self.plan.add("threshold", FractionThreshold(select.threshold.keep_fraction), "score")
            upstream.append("threshold")
        keys: Any = self.recipe.caption
        if self.recipe.images.placeholder:
            upstream.append("placeholders")
        self.plan.add("select", SelectPairs(select.rule, threshold, keys.keep == "best"), *upstream)

    def _calibrate(self, threshold: Literal["calibrated"] | PrecisionTarget | RecallTarget) -> None:
        self._demand_human(f"select.threshold: {threshold if threshold == 'calibrated' else 'a target'}")
        target, upstream = None, ["score_held_out"]
        if isinstance(threshold, PrecisionTarget):
            target = ThresholdTarget("precision", threshold.precision)
            upstream.append("score")  # what is precise depends on how many of the crawl's texts match
        elif isinstance(threshold, RecallTarget):
            target = ThresholdTarget("recall", threshold.recall)
        self.plan.add("calibrate", Calibrate(self.recipe.seed, target), *upstream)

    def _demand_probability(self) -> None:
        facts = self.facts.get("filter")
        if facts and not facts.probability:
            raise RecipeError(
                what="select.threshold: a number needs a filter that gives the probability of a match",
                evidence=f"{facts.where} is a {facts.model_type} model: its itm is (1 + cosine) / 2, which ranks "
                "texts and says no more",
                remedy="set select.threshold to {keep_fraction: 0.3} or, with human pairs, to calibrated",
            )

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


def inference_of(models: Any) -> Inference:
    """The arithmetic of captioning and scoring by recipe keys."""
    precision = fast_precision(gpu=False) if models.precision == "auto" else models.precision
    return Inference(precision, models.itm_token)


def decoding_of(keys: Any, seed: int, facts: ModelFacts | None) -> Decoding:
    """How captions are decoded by recipe keys; the prompt, if they have none, is the captioner's own.

    ``facts`` are those of a checkpoint that was brought; without them the captioner is trained here.
    """
    decoding: Decoding = settings_of(Decoding, keys, seed)
    return decoding if facts is None or keys.prompt is not None else replace(decoding, prompt=facts.prompt)


def _digest_of_files(images: Path, labels: Path) -> str:
    """sha256 over the label table's bytes and the names and sizes of the images, hex."""
    if not images.is_dir() or not labels.is_file():
        missing = labels if images.is_dir() else images
        raise RecipeError(
            what="models.warmup needs both `images` (a folder) and `labels` (a table file,label)",
            evidence=f"{missing} is not there",
            remedy="give both, or neither to warm up on the words of the human captions",
        )
    seen = hashlib.sha256(labels.read_bytes())
    for path in sorted(path for path in images.rglob("*") if path.is_file()):
        seen.update(f"{path.relative_to(images)}\x1f{path.stat().st_size}\x1e".encode())
    return seen.hexdigest()
