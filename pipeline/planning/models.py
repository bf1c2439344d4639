"""Which models a run captions and filters with: checkpoints that the recipe names, or stages that train them."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from capfilt.data_contracts.errors import RecipeError
from capfilt.models.checkpoint import ROLES, Role, locate_family
from capfilt.models.engine.precision import fast_precision
from capfilt.models.med.config import preset
from capfilt.models.open import ENGINE, ModelFacts, check_model, digest_of
from capfilt.models.protocols import Inference
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)
from capfilt.pipeline.planning.graph import Graph
from capfilt.pipeline.planning.model_keys import (
    CaptionerKeys,
    FilterKeys,
    ModelsKeys,
    ParentsKeys,
    PretrainKeys,
    WarmupKeys,
)
from capfilt.pipeline.planning.parent_run import cleaned_of
from capfilt.pipeline.planning.schema import Recipe
from capfilt.pipeline.planning.settings import settings_of
from capfilt.stages.ingest.sources import folder
from capfilt.stages.stage import BroughtModel, ModelRef, TrainedModel
from capfilt.stages.training.finetune import FinetuneCaptioner, FinetuneFilter
from capfilt.stages.training.pretrain import Pretrain
from capfilt.stages.training.rank_web import RankWeb
from capfilt.stages.training.screen_web import ScreenWeb
from capfilt.stages.training.start import Fresh, Parents, Start
from capfilt.stages.training.tokenizer import TrainTokenizer
from capfilt.stages.training.warm_up import WarmUp, WarmUpOnLabels
from capfilt.stages.training.word_coverage import MeasureWordCoverage


@dataclass(frozen=True)
class RunModels:
    """The filter and the captioner of a run, and the facts of those that are checkpoints."""

    filter: ModelRef
    captioner: ModelRef
    facts: Mapping[Role, ModelFacts]


def add_models(plan: Graph, recipe: Recipe) -> RunModels:
    """The models of a recipe; the stages that train them, and what these need, join the plan.

    Raises:
        RecipeError: there is nothing to train from, or nothing to learn from.
        ModelError: a checkpoint cannot be used for its role.
    """
    return _Models(plan, recipe).add()


def inference_of(models: ModelsKeys) -> Inference:
    """The arithmetic of captioning and scoring by recipe keys."""
    precision = fast_precision(gpu=False) if models.precision == "auto" else models.precision
    return Inference(precision, models.itm_token)


def demand_human(recipe: Recipe, what: str) -> None:
    """Raises :class:`RecipeError` where ``what`` needs human pairs and the recipe has none."""
    if not recipe.human:
        raise RecipeError(
            what=f"{what} needs human pairs",
            evidence="the recipe has no `human` source",
            remedy="add one, or bring checkpoints for both models and set select.threshold to a number",
        )


class _Models:
    def __init__(self, plan: Graph, recipe: Recipe) -> None:
        self.plan, self.recipe, self.keys = plan, recipe, recipe.models
        self.facts: dict[Role, ModelFacts] = {}

    def add(self) -> RunModels:
        keys = self.keys
        brought: dict[Role, BroughtModel | None] = {
            "filter": self._brought("filter", keys.filter),
            "captioner": self._brought("captioner", keys.captioner),
        }
        fresh = [role for role in ROLES if brought[role] is None]
        pretrained = self._pretrained(fresh) if fresh else None

        def start(role: Role) -> Start:
            found = brought[role] or pretrained
            assert found is not None
            return found

        filter: ModelRef | None = brought["filter"]
        if filter is None or keys.filter.steps:  # first: it may choose what the captioner rehearses on
            filter = self._filter(start("filter"))
        captioner: ModelRef | None = brought["captioner"]
        if captioner is None or keys.captioner.steps:
            captioner = self._captioner(start("captioner"), filter)
        return RunModels(filter, captioner, self.facts)

    def _brought(self, role: Role, keys: FilterKeys | CaptionerKeys) -> BroughtModel | None:
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

    # -- finetunings --------------------------------------------------------------------------------------

    def _filter(self, start: Start) -> TrainedModel:
        self._measure_words("filter")
        rehearses = self._trusted_by_similarity(start)
        settings = settings_of(FilterSettings(), self.keys.filter, self.recipe.seed)
        self.plan.add("filter", FinetuneFilter(start, settings, bool(rehearses)), "human", *rehearses)
        return TrainedModel("filter")

    def _captioner(self, start: Start, filter: ModelRef) -> TrainedModel:
        self._measure_words("captioner")
        rehearses = self._trusted_by_filter(filter)
        settings = settings_of(CaptionerSettings(), self.keys.captioner, self.recipe.seed)
        self.plan.add("captioner", FinetuneCaptioner(start, settings, bool(rehearses)), "human", *rehearses)
        return TrainedModel("captioner")

    def _measure_words(self, role: Role) -> None:
        demand_human(self.recipe, f"training the {role}")
        if "word_coverage" not in self.plan.nodes:
            self.plan.add("word_coverage", MeasureWordCoverage(), "human", "ingest")

    def _trusted_by_similarity(self, start: Start) -> tuple[str, ...]:
        """What the filter rehearses on: the web texts of which the pretrained model is sure, if there is one."""
        if self.keys.rehearsal == "off" or not isinstance(start, BroughtModel | TrainedModel):
            return ()
        if start == TrainedModel("warmup"):  # its encoders have never been compared with each other
            return ()
        inference = replace(inference_of(self.keys), itm_token=None)  # the encoders have no such token
        self.plan.add("rank_web", RankWeb(start, inference, self._always), "ingest", "word_coverage")
        return ("ingest", "rank_web")

    def _trusted_by_filter(self, filter: ModelRef) -> tuple[str, ...]:
        """What the captioner rehearses on: the web texts that the filter keeps.

        A filter that was trained here on human pairs alone is as blind as the captioner would be, and one that
        gives no probability has no threshold.
        """
        facts = self.facts.get("filter")
        trained = isinstance(filter, TrainedModel)
        usable = "rank_web" in self.plan.nodes if trained else bool(facts and facts.probability)
        if self.keys.rehearsal == "off" or not usable:
            return ()
        stage = ScreenWeb(filter, inference_of(self.keys), self._always)
        self.plan.add("screen_web", stage, "ingest", "word_coverage")
        return ("ingest", "screen_web")

    @property
    def _always(self) -> bool:
        return self.keys.rehearsal == "on"

    # -- what both finetunings start from -----------------------------------------------------------------

    def _pretrained(self, fresh: Sequence[Role]) -> Start:
        """The model that these roles are finetuned from, with the stages that make it."""
        keys = self.keys
        start = self._initial(fresh)
        if keys.warmup is not None:
            self._warm_up(start, keys.warmup)
            start = TrainedModel("warmup")
        if keys.pretrain is not None:
            self._pretrain(start, keys.pretrain)
            start = TrainedModel("pretrain")
        return start

    def _initial(self, fresh: Sequence[Role]) -> Start:
        demand_human(self.recipe, "training")
        init, seed = self.keys.init, self.recipe.seed
        if not init:
            raise RecipeError(
                what="a model is to be trained, but from what?",
                evidence="models.init is absent, and filter or captioner names no checkpoint",
                remedy="set models.init to a preset (tiny, small, base, large) or a model directory",
            )
        if isinstance(init, ParentsKeys):
            locate_family(init.vision, "vit")
            locate_family(init.text, "bert")
            vision = BroughtModel(digest_of(init.vision), init.vision)
            return Parents(vision, BroughtModel(digest_of(init.text), init.text), seed)
        if os.path.isdir(init) or "/" in init:
            for role in ROLES if self.keys.pretrain is not None else fresh:
                facts = check_model(init, role)
            return BroughtModel(digest_of(init), facts.where)
        preset(init)  # refuses an unknown name here, not on a worker
        return Fresh(init, self._tokenizer(), seed)

    def _warm_up(self, start: Start, keys: WarmupKeys) -> None:
        settings = settings_of(WarmupSettings(), keys, self.recipe.seed)
        if keys.images or keys.labels:
            images, labels = keys.images or "", keys.labels or ""
            digest = _digest_of_files(Path(images), Path(labels))
            self.plan.add("warmup", WarmUpOnLabels(start, settings, images, labels, digest))
        else:
            self.plan.add("warmup", WarmUp(start, settings), "human")

    def _pretrain(self, start: Start, keys: PretrainKeys) -> None:
        settings = settings_of(PretrainSettings(), keys, self.recipe.seed)
        upstream = ["human", "ingest"]
        if keys.from_run:
            listing, cleaned = cleaned_of(keys.from_run)
            self.plan.add("list_cleaned", listing)
            self.plan.add("cleaned", cleaned, "list_cleaned")
            upstream.append("cleaned")
        self.plan.add("pretrain", Pretrain(start, settings), *upstream)

    def _tokenizer(self) -> ModelRef:
        given = self.keys.tokenizer
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


def _digest_of_files(images: Path, labels: Path) -> str:
    """sha256 over the label table's bytes and the names and sizes of the images, hex."""
    if not images.is_dir() or not labels.is_file():
        missing = labels if images.is_dir() else images
        raise RecipeError(
            what="models.warmup needs both `images` (a folder) and `labels` (a table file,label)",
            evidence=f"{missing} is not there",
            remedy="give both, or neither to warm up on the words of the human captions",
        )
    return folder.digest_of(labels, images)
