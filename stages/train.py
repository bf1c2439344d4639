"""Training: tokenizer, warm-up, pretraining, filter, captioner. Each leaves a model and its loss curve.

BLIP (arXiv 2201.12086): pretrain on human and web pairs (section 3.2), then finetune two separate copies on
the human pairs, a filter by ITC + ITM and a captioner by LM (section 3.3).
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.csv as pacsv

from data_contracts.contract import Contract
from data_contracts.errors import SourceError, TrainingError
from data_contracts.records import (
    Alignment,
    CleanedPicture,
    HumanPicture,
    Metric,
    Picture,
    Record,
    Score,
    Split,
    TrainingStep,
)
from models.text import normalise_caption
from stages.stage import MODEL_LIBRARIES, GlobalStage, Model, ModelRef, Rows, Site, StageInput

if TYPE_CHECKING:
    from models.med.checkpoint import Checkpoint as Loaded
    from models.training.data import PairSet
    from models.training.jobs import CaptionerSettings, FilterSettings, PretrainSettings, WarmupSettings
    from models.training.loop import Execution

ONLY = "0000000"


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

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture, Picture)
    produces: ClassVar[type[Record]] = Metric
    unit: ClassVar[str] = "figure"

    size: int

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        from models.med.tokenizer import CaptionTokenizer

        texts = [
            text
            for record in (HumanPicture, Picture)
            for part in inputs.parts(record, ["texts"])
            for own in part["texts"].to_pylist()
            for text in own
        ]
        tokenizer = CaptionTokenizer.train(texts, self.size)
        directory = site.scratch / "model"
        directory.mkdir()
        tokenizer.save(directory)
        yield Model(directory)
        figure = Metric(
            name="vocabulary", value=tokenizer.size, low=None, high=None, count=len(texts), note="word pieces"
        )
        yield Rows(Contract(Metric).table([figure]), shard=ONLY, units=1)


@dataclass(frozen=True)
class _Training(GlobalStage):
    """What the four trainings share: a start, data, a loop that checkpoints, a model directory at the end."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture,)
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

    def run(self, site: Site, inputs: StageInput) -> Iterator[Rows | Model]:
        from models.med import checkpoint
        from models.training.loop import Execution

        loaded = self._load(site)
        lasting = site.lasting()
        curve = lasting / "steps.jsonl"
        with curve.open("a", buffering=1) as lines:  # what a checkpoint has behind it will not run again
            if curve.stat().st_size:
                lines.write("\n")  # a kill may have cut the last line short
            what = self.train(
                loaded,
                site,
                inputs,
                Execution(
                    threads=site.threads,
                    device=site.device,
                    checkpoints=lasting,
                    on_checkpoint=site.keep,
                    on_step=lambda record: self._note(record, lines.write, site),
                ),
            )
        directory = site.scratch / "model"
        checkpoint.save(directory, loaded.model, loaded.tokenizer, what=what)
        yield Model(directory)
        steps = _read_curve(curve)
        yield Rows(Contract(TrainingStep).table(steps), shard=ONLY, units=len(steps))

    def _load(self, site: Site) -> "Loaded":
        from models.med import checkpoint
        from models.med.parents import descend
        from models.med.tokenizer import CaptionTokenizer

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
            site.progress(done, total, f"loss {record['loss']:.3f}")


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
        from models.training.jobs import warm_up

        human = human_pairs(inputs, Split.TRAIN, loaded.model.config.image_size, site)
        words = warm_up(loaded.model, human, self.settings, execution)
        return f"Its image encoder was warmed up on {len(words)} words of {len(human)} captioned images."


@dataclass(frozen=True)
class WarmUpOnLabels(_Training):
    """The image encoder first classifies other pictures: a folder, and a table with columns file and label.

    ``digest`` stands for both; where they lie is not identity.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = ()

    settings: "WarmupSettings"
    images: str = field(metadata={"identity": False})
    labels: str = field(metadata={"identity": False})
    digest: str

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from models.decode import UndecodableImage, decode
        from models.images import square
        from models.training.jobs import warm_up_on_labels

        size = loaded.model.config.image_size
        table = pacsv.read_csv(self.labels)
        pixels = np.empty((table.num_rows, size, size, 3), dtype=np.uint8)
        for row, file in enumerate(table["file"].to_pylist()):
            try:
                pixels[row] = square(decode((Path(self.images) / str(file)).read_bytes()), size)
            except (OSError, UndecodableImage) as error:
                raise SourceError(
                    what=f"warm-up picture {file} cannot be read",
                    evidence=str(error),
                    remedy=f"take it out of {self.labels}",
                ) from error
        labels = [str(label) for label in table["label"].to_pylist()]
        classes = warm_up_on_labels(loaded.model, pixels, labels, self.settings, execution)
        return f"Its image encoder was warmed up on {len(labels)} pictures of {len(classes)} classes."


@dataclass(frozen=True)
class Pretrain(_Training):
    """ITC + ITM + LM on human and web pairs (BLIP, section 3.2)."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture, Picture, CleanedPicture)

    settings: "PretrainSettings"

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from models.training.jobs import pretrain

        size = loaded.model.config.image_size
        human = human_pairs(inputs, Split.TRAIN, size, site)
        web = web_pairs(inputs, size, site)
        pretrain(loaded.model, loaded.tokenizer, human, web, self.settings, execution)
        return f"Pretrained with ITC, ITM and LM on {len(human)} human and {len(web)} web images."


@dataclass(frozen=True)
class FinetuneFilter(_Training):
    """ITC + ITM on the human pairs (BLIP, section 3.3); with ``rehearsal`` on confident web pairs, too."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture, Picture, Alignment)

    settings: "FilterSettings"
    rehearsal: bool = False

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from models.training.jobs import finetune_filter

        human = human_pairs(inputs, Split.TRAIN, loaded.model.config.image_size, site)
        finetune_filter(loaded.model, loaded.tokenizer, human, None, self.settings, execution)
        return f"A filter: finetuned with ITC and ITM on {len(human)} human images."


@dataclass(frozen=True)
class FinetuneCaptioner(_Training):
    """LM on the human pairs (BLIP, section 3.3); with ``rehearsal`` on web pairs that the filter vetted, too."""

    consumes: ClassVar[tuple[type[Record], ...]] = (HumanPicture, Picture, Score)

    settings: "CaptionerSettings"
    rehearsal: bool = False

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from models.training.jobs import finetune_captioner

        human = human_pairs(inputs, Split.TRAIN, loaded.model.config.image_size, site)
        finetune_captioner(loaded.model, loaded.tokenizer, human, None, self.settings, execution)
        return f"A captioner: finetuned with LM on {len(human)} human images."


def human_pairs(inputs: StageInput, split: Split, size: int, site: Site) -> "PairSet":
    """The human images of a split with their captions."""
    return _pairs(inputs, HumanPicture, size, site, split)


def web_pairs(inputs: StageInput, size: int, site: Site) -> "PairSet":
    """The crawled images that have a text."""
    return _pairs(inputs, Picture, size, site, None)


def _pairs(inputs: StageInput, record: type[Record], size: int, site: Site, split: Split | None) -> "PairSet":
    """Pixels (n, size, size, 3), uint8, go to a memory map, so that memory does not grow with the set."""
    from models.decode import decode
    from models.images import square
    from models.training.data import PairSet

    columns = ["image_id", "image", "texts", *(["split"] if split else [])]
    ids: list[str] = []
    texts: list[Sequence[str]] = []
    path = site.scratch / f"{record.__name__}.pixels"
    with path.open("wb") as file:
        for part in inputs.parts(record, columns):
            for row in part.to_pylist():
                usable = [text for text in row["texts"] if normalise_caption(text)]
                if usable and row.get("split") == split:
                    file.write(square(decode(row["image"]), size).tobytes())
                    ids.append(row["image_id"])
                    texts.append(usable)
    if not ids:
        raise TrainingError(
            what="there is nothing to train on",
            evidence=f"no {record.__name__} with a text" + (f" in split {split}" if split else ""),
            remedy="look at `capfilt inspect RUN human` and `capfilt inspect RUN ingest`",
        )
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=(len(ids), size, size, 3))
    return PairSet(pixels, texts, ids)
