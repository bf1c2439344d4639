"""A record: a frozen model from which an Arrow schema is derived; and the types that several records share."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Hex128 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]


@dataclass(frozen=True)
class Half:
    """Marks a list of floats as a vector of float16. In one table all are of one length, which a model gives."""


Vector = Annotated[list[float], Half()]


class Split(StrEnum):
    """What a human image is for: training, setting the threshold, or every reported figure."""

    TRAIN = "train"
    CALIBRATE = "calibrate"
    TEST = "test"


class Source(StrEnum):
    """Where a text comes from."""

    WEB = "web"
    SYNTHETIC = "synthetic"
    HUMAN = "human"


class Record(BaseModel):
    """A row of a contract. ``version`` rises when a column changes its meaning, name or type.

    ``key`` names the columns that are unique within a part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[int] = 1
    key: ClassVar[tuple[str, ...]] = ("row_id",)
