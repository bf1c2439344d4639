"""What a training reports."""

from typing import ClassVar

from pydantic import Field

from capfilt.data_contracts.records.record import Probability, Record


class TrainingStep(Record):
    """What one optimiser step reported; null where a figure does not belong to the job."""

    version: ClassVar[int] = 2
    key: ClassVar[tuple[str, ...]] = ("step",)

    step: int = Field(ge=1)
    loss: float
    itc: float | None
    itm: float | None
    itm_accuracy: Probability | None
    lm: float | None
    recall: Probability | None = Field(description="ITC's running recall at 1 within the batch")
    accuracy: Probability | None = Field(description="of the warm-up's classification")
    temperature: float | None = Field(description="ITC's")
    lr: float = Field(ge=0.0)
    grad_norm: float = Field(ge=0.0)
    seconds: float = Field(ge=0.0, description="wall-clock time of the step")
    validation_recall: Probability | None = Field(description="ITC's at 1, among the held-out human images")
    validation_itc_auc: Probability | None = Field(description="held-out human pairs against shuffled ones")
    validation_itm: float | None = Field(description="ITM's loss on these")
    validation_itm_accuracy: Probability | None
    validation_itm_auc: Probability | None
    validation_lm: float | None = Field(description="LM's loss on the held-out human pairs, not smoothed")
    validation_same: Probability | None = Field(
        description="of their images, the largest share that gets one and the same greedy caption"
    )
