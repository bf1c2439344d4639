"""What the trainings share: a start, data, a loop that checkpoints, a model and its loss curve at the end.

BLIP (arXiv 2201.12086): pretrain on human and web pairs (section 3.2), then finetune two separate copies on
the human pairs, a filter by ITC + ITM and a captioner by LM (section 3.3).
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.records import HumanImage, Record, TrainingStep
from capfilt.stages.stage import MODEL_LIBRARIES, CollectiveStage, Model, ModelRef, Rows, Site, StageInput
from capfilt.stages.training.start import Fresh, Parents, Start

if TYPE_CHECKING:
    from capfilt.models.med.checkpoint import Checkpoint as Loaded
    from capfilt.models.training.loop import Execution

CURVE, MODEL = "steps.jsonl", "model"


@dataclass(frozen=True)
class Training(CollectiveStage):
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
