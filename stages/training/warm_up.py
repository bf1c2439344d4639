"""Warm up the image encoder before the pretraining."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow.csv as pacsv

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.records import Record
from capfilt.stages.stage import Site, StageInput
from capfilt.stages.training.pairs import human_pairs
from capfilt.stages.training.train import Training

if TYPE_CHECKING:
    from capfilt.models.med.checkpoint import Checkpoint as Loaded
    from capfilt.models.training.loop import Execution
    from capfilt.models.training.settings import WarmupSettings


@dataclass(frozen=True)
class WarmUp(Training):
    """The image encoder first predicts the words of the human captions: BLIP starts from an ImageNet ViT."""

    settings: "WarmupSettings"

    def train(self, loaded: "Loaded", site: Site, inputs: StageInput, execution: "Execution") -> str:
        from capfilt.models.training.jobs import warm_up

        human = human_pairs(inputs, loaded.model.config.image_size, site)
        words = warm_up(loaded.model, loaded.tokenizer, human, self.settings, execution)
        return f"Its image encoder was warmed up on {len(words)} words of {len(human)} captioned images."


@dataclass(frozen=True)
class WarmUpOnLabels(Training):
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
        return f"Its image encoder was warmed up on {len(labels)} images of {len(classes)} classes."
