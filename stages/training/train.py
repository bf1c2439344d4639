"""Training: tokenizer, warm-up, pretraining, filter, captioner. Each leaves a model and its loss curve.

BLIP (arXiv 2201.12086): pretrain on human and web pairs (section 3.2), then finetune two separate copies on
the human pairs, a filter by ITC + ITM and a captioner by LM (section 3.3).
"""

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.csv as pacsv

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.records import (
    CleanedImage,
    HumanImage,
    IngestedImage,
    Metric,
    Record,
    Score,
    Split,
    TrainingStep,
    WebSimilarity,
)
from capfilt.stages.stage import (
    MODEL_LIBRARIES,
    CollectiveStage,
    GlobalStage,
    Model,
    ModelRef,
    Rows,
    Site,
    StageInput,
)
from capfilt.stages.training.pairs import CommittedPairs, held_out_pairs
from capfilt.stages.training.rehearsal import Trusted, confident, vetted

if TYPE_CHECKING:
    from capfilt.models.med.checkpoint import Checkpoint as Loaded
    from capfilt.models.training.data import PairSource
    from capfilt.models.training.loop import Execution
    from capfilt.models.training.settings import (
        CaptionerSettings,
        FilterSettings,
        PretrainSettings,
        WarmupSettings,
    )

logger = logging.getLogger(__name__)

MOST_PASSES = 8  # over a small crawl: with photographs 3 did no harm and 10 did (docs/training.md)
CURVE, MODEL = "steps.jsonl", "model"


@dataclass(frozen=True)
class Fresh:
    """A model with random weights: a preset, a tokenizer, a seed."""

    preset: str
    tokenizer: ModelRef
    seed: int


@dataclass(frozen=True)
class Parents:
    """A plain ViT and a plain BERT that a model inherits from; what they have not is drawn from ``seed``."""

    vision: ModelRef
    text: ModelRef
    seed: int


Start = Fresh | Parents | ModelRef


@dataclass(frozen=True)
class TrainTokenizer(GlobalStage):
    """A WordPiece vocabulary of at most ``size`` pieces from all human and web texts."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage)
    produces: ClassVar[type[Record]] = Metric
    unit: ClassVar[str] = "figure"

    size: int

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        from capfilt.models.med.tokenizer import CaptionTokenizer

        texts = [
            text
            for record in (HumanImage, IngestedImage)
            for part in inputs.parts(record, ["texts"])
            for own in part["texts"].to_pylist()
            for text in own
        ]
        tokenizer = CaptionTokenizer.train(texts, self.size)
        directory = site.scratch / "model"
        directory.mkdir()
        tokenizer.save(directory)
        yield Model(directory)
        figure = Metric(name="vocabulary", value=tokenizer.size, count=len(texts), note="word pieces")
        yield Rows(Contract(Metric).table([figure]), units=1)


@dataclass(frozen=True)
class _Training(CollectiveStage):
    """What the four trainings share: a start, data, a loop that checkpoints, a model directory at the end."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage,)
    produces: ClassVar[type[Record]] = TrainingStep
    libraries: ClassVar[tuple[str, ...]] = MODEL_LIBRARIES
    unit: ClassVar[str] = "step"

    start: Start

    @property
    def models(self) -> tuple[ModelRef, ...]:
        if isinstance(self.start, Parents):
            return (self.start.vision, self.start.text)
        return (self.start.tokenizer if isinstance(self.start, Fresh) else self.start,)

    @abstractmethod
    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        """Train the model in place; what the model card says of it."""

    def work(self, site: Site, inputs: StageInput) -> None:
        from capfilt.models.med import checkpoint
        from capfilt.models.training.distributed import WorkerGroup
        from capfilt.models.training.loop import Execution

        world = WorkerGroup.here()
        loaded = self._load(site)
        lasting = site.lasting()
        with (lasting / CURVE).open(
            "a", buffering=1
        ) as lines:  # what a checkpoint has behind it will not run again
            if lines.tell() and world.first:
                lines.write("\n")  # a kill may have cut the last line short
            execution = Execution(
                threads=site.threads,
                device=site.device,
                world=world,
                checkpoints=lasting,
                every=site.checkpoint_steps,
                minutes=site.checkpoint_minutes,
                on_checkpoint=site.keep,
                on_step=(lambda record: self._note(record, lines.write, site)) if world.first else None,
            )
            what = self.train(loaded, site, inputs, execution)
        if world.first:
            checkpoint.save(lasting / MODEL, loaded.model, loaded.tokenizer, what=what)
            site.keep()

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        lasting = site.lasting()
        yield Model(lasting / MODEL)
        steps = _read_curve(lasting / CURVE)
        yield Rows(Contract(TrainingStep).table(steps), units=len(steps))

    def _load(self, site: Site) -> "Loaded":
        from capfilt.models.med import checkpoint
        from capfilt.models.med.parents import descend
        from capfilt.models.med.tokenizer import CaptionTokenizer

        if isinstance(self.start, Parents):
            vision, text = (Path(site.models[parent]) for parent in self.models)
            model, tokenizer = descend(vision, text, self.start.seed)
            return checkpoint.Checkpoint(model.to(site.device), tokenizer)
        if not isinstance(self.start, Fresh):
            return checkpoint.load(Path(site.models[self.start]), site.device)
        tokenizer = CaptionTokenizer.load(Path(site.models[self.start.tokenizer]))
        model = checkpoint.create(self.start.preset, tokenizer, self.start.seed).to(site.device)
        return checkpoint.Checkpoint(model, tokenizer)

    def _note(self, record: dict[str, float], write: Callable[[str], int], site: Site) -> None:
        write(json.dumps(record) + "\n")
        done, total = int(record["step"]), int(record["steps"])
        if done % 10 == 0 or done == total:
            shown = (("loss", "loss"), ("recall", "ITC recall"), ("itm_accuracy", "ITM accuracy"))
            text = ", ".join(f"{name} {record[key]:.3f}" for key, name in shown if key in record)
            site.progress(done, total, text, record)


def _read_curve(path: Path) -> list[TrainingStep]:
    """The curve over all attempts: of a step that ran twice, the later one counts."""
    steps: dict[int, TrainingStep] = {}
    for line in path.read_text().splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:  # a kill cut the last line short; its step ran again
            continue
        values = {name: record.get(name) for name in TrainingStep.model_fields}
        steps[int(record["step"])] = TrainingStep.model_validate({**values, "step": int(record["step"])})
    return [steps[step] for step in sorted(steps)]


@dataclass(frozen=True)
class WarmUp(_Training):
    """The image encoder first predicts the words of the human captions: BLIP starts from an ImageNet ViT."""

    settings: "WarmupSettings"

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.jobs import warm_up

        human = human_pairs(inputs, loaded.model.config.image_size, site)
        words = warm_up(loaded.model, loaded.tokenizer, human, self.settings, execution)
        return f"Its image encoder was warmed up on {len(words)} words of {len(human)} captioned images."


@dataclass(frozen=True)
class WarmUpOnLabels(_Training):
    """The image encoder first classifies other images: a folder, and a table with columns file and label.

    ``digest`` stands for both; where they lie is not identity.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = ()

    settings: "WarmupSettings"
    images: str = field(metadata={"identity": False})
    labels: str = field(metadata={"identity": False})
    digest: str

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.images.decode import UndecodableImage, decode
        from capfilt.models.images.prepare import square
        from capfilt.models.training.jobs import warm_up_on_labels

        size = loaded.model.config.image_size
        table = pacsv.read_csv(self.labels)
        pixels = np.empty((table.num_rows, size, size, 3), dtype=np.uint8)
        for row, file in enumerate(table["file"].to_pylist()):
            try:
                pixels[row] = square(decode((Path(self.images) / str(file)).read_bytes()), size)
            except (OSError, UndecodableImage) as error:
                raise SourceError(
                    what=f"warm-up image {file} cannot be read",
                    evidence=str(error),
                    remedy=f"take it out of {self.labels}",
                ) from error
        labels = [str(label) for label in table["label"].to_pylist()]
        settings, tokenizer = self.settings, loaded.tokenizer
        classes = warm_up_on_labels(loaded.model, tokenizer, pixels, labels, settings, execution)
        return f"Its image encoder was warmed up on {len(labels)} pictures of {len(classes)} classes."


@dataclass(frozen=True)
class Pretrain(_Training):
    """ITC + ITM + LM on human and web pairs (BLIP, section 3.2), and on those that another run has cleaned."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, CleanedImage)

    settings: "PretrainSettings"

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.data import PairSource
        from capfilt.models.training.jobs import pretrain

        size, settings = loaded.model.config.image_size, self.settings
        human, held_out = human_pairs(inputs, size, site), held_out_pairs(inputs, size, site)
        web = CommittedPairs(inputs, IngestedImage, size, site)
        others = [PairSource(web, len(web))]
        what = f"Pretrained with ITC, ITM and LM on {len(human)} human and {len(web)} web images"
        beside = 0
        if inputs.has(CleanedImage):
            aside = _held_out_ids(inputs)
            cleaned = CommittedPairs(
                inputs,
                CleanedImage,
                size,
                site,
                trusted=lambda image, texts: () if image in aside else texts,
            )
            beside = len(cleaned)
            weights = settings.other_shares(len(web), beside)
            others = [PairSource(web, weights[0]), PairSource(cleaned, weights[1])]
            what += f", and on {beside} that another run has cleaned"
        passes = web_passes(vars(settings), len(web), beside)
        if passes > MOST_PASSES and execution.world.first:
            logger.warning(learnt_by_heart(passes, len(web)))
        pretrain(loaded.model, loaded.tokenizer, human, others, settings, execution, held_out)
        return f"{what}."


def web_passes(settings: Mapping[str, Any], web: int, cleaned: int) -> float:
    """How often pretraining sees each of so many web images, beside so many that another run has cleaned.

    The shares are those of :meth:`capfilt.models.training.settings.PretrainSettings.other_shares`, without importing
    torch.
    """
    share = 1 - settings["human_share"] - settings["cleaned_share"]
    if not settings["cleaned_share"] and cleaned:
        share *= web / (web + cleaned)
    return float(settings["steps"] * settings["batch"] * share / web) if web else 0.0


def learnt_by_heart(passes: float, web: int) -> str:
    return (
        f"Pretraining sees each of the {web:,} web images {passes:.0f} times. A model learns so few wrong texts by "
        "heart, and the filter then lets them pass, which test images do not show. Take "
        "models.pretrain.human_share: 1, fewer steps, or a larger crawl."
    )


@dataclass(frozen=True)
class FinetuneFilter(_Training):
    """ITC + ITM on the human pairs (BLIP, section 3.3); with ``rehearsal`` on confident web pairs, too."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, WebSimilarity)

    settings: "FilterSettings"
    rehearsal: bool = False

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.jobs import finetune_filter

        size = loaded.model.config.image_size
        human, held_out = human_pairs(inputs, size, site), held_out_pairs(inputs, size, site)
        web = _trusted_pairs(inputs, confident(inputs), size, site) if self.rehearsal else None
        others = _only(web)
        finetune_filter(loaded.model, loaded.tokenizer, human, others, self.settings, execution, held_out)
        rehearsed = f" and {len(web)} web images of which the pretrained model was sure" if web else ""
        return f"A filter: finetuned with ITC and ITM on {len(human)} human images{rehearsed}."


@dataclass(frozen=True)
class FinetuneCaptioner(_Training):
    """LM on the human pairs (BLIP, section 3.3); with ``rehearsal`` on web pairs that the filter vetted, too."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanImage, IngestedImage, Score)

    settings: "CaptionerSettings"
    rehearsal: bool = False

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.jobs import finetune_captioner

        size = loaded.model.config.image_size
        human, held_out = human_pairs(inputs, size, site), held_out_pairs(inputs, size, site)
        web = _trusted_pairs(inputs, vetted(inputs), size, site) if self.rehearsal else None
        others = _only(web)
        finetune_captioner(loaded.model, loaded.tokenizer, human, others, self.settings, execution, held_out)
        rehearsed = f" and {len(web)} web images whose text the filter kept" if web else ""
        return f"A captioner: finetuned with LM on {len(human)} human images{rehearsed}."


def human_pairs(inputs: StageInput, size: int, site: Site) -> CommittedPairs:
    """The human images of the train split."""
    return CommittedPairs(inputs, HumanImage, size, site, Split.TRAIN)


def _held_out_ids(inputs: StageInput) -> frozenset[str]:
    """The images of the human set that no training may see."""
    return frozenset(
        image
        for part in inputs.parts(HumanImage, ["image_id", "split"])
        for image, split in zip(part["image_id"].to_pylist(), part["split"].to_pylist(), strict=True)
        if split != Split.TRAIN
    )


def _trusted_pairs(inputs: StageInput, trusted: Trusted, size: int, site: Site) -> CommittedPairs | None:
    """The web images with a trusted text, and only these texts; ``None`` where there is nothing to rehearse."""
    return CommittedPairs(inputs, IngestedImage, size, site, trusted=trusted.of) if len(trusted) else None


def _only(pairs: CommittedPairs | None) -> "list[PairSource]":
    from capfilt.models.training.data import PairSource

    return [PairSource(pairs, 1.0)] if pairs is not None else []
