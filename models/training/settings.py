"""The settings of the trainings: what the recipe gives, and what can change the model. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from capfilt.data_contracts.errors import TrainingError


@dataclass(frozen=True)
class LoopSettings:
    """What every job has. BLIP's optimizer (section 4.1); rates for training a tiny model from scratch.

    ``batch`` pairs a step; ``lr`` after ``warmup`` linear steps, then a cosine to zero; ``crop`` is the smallest
    share of an image's area that augmentation keeps; ``flip`` mirrors half of the images, off by default because
    captions that say left or right would become false; ``randaugment`` operations an image (BLIP: 2); ``seed`` orders
    pairs and draws crops and negatives; ``window``: see :mod:`capfilt.models.training.shard_order`.

    ``accumulate``: a batch is gone through in so many parts, each a batch of its own to ITC and ITM, whose
    gradients are averaged. ``precision`` bf16 computes in bfloat16 where torch's autocast does; weights stay
    float32. ``recompute`` trades a third more time for the memory of activations. ``freeze`` names what is not
    trained; ``lora`` trains matrices of so low a rank instead of the layers (arXiv 2106.09685). The held-out
    human pairs are looked at every ``validate_every`` steps, a tenth of all if left out; 0: never.
    """

    steps: int
    lr: float
    batch: int = 64
    warmup: int = 50
    weight_decay: float = 0.05
    clip: float = 1.0
    crop: float = 0.8
    flip: bool = False
    randaugment: int = 0
    window: int = 100_000
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    freeze: tuple[Literal["vision", "text"], ...] = ()
    lora: int = 0
    validate_every: int | None = None
    seed: int = 0

    @property
    def rows(self) -> int:
        """Pairs that are gone through at once. Raises :class:`TrainingError` when ``batch`` has no such part."""
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise TrainingError(
                what="a batch cannot be gone through in so many parts",
                evidence=f"batch {self.batch}, accumulate {self.accumulate}",
                remedy="make batch a multiple of accumulate",
            )
        return self.batch // self.accumulate

    def looks(self, done: int) -> bool:
        """Whether the held-out pairs are looked at after so many steps."""
        every = max(1, self.steps // 10) if self.validate_every is None else self.validate_every
        return bool(every) and (done % every == 0 or done == self.steps)


@dataclass(frozen=True)
class GroundingSettings(LoopSettings):
    """When ITM starts and how hard its negatives are follows ITC's running recall at 1 among human pairs.

    ITM starts at recall ``itm_from``, at the latest after ``itm_latest`` of the steps: before, it would only
    learn that two pairs in three are wrong. Its negatives are uniform at recall 0 and as hard as BLIP's from
    ``hard_from`` on. With ``queue`` 0 ITC compares within the batch; above, it uses BLIP's momentum encoders
    (decay ``momentum``), and soft targets weighted ``alpha``, ramped up over the first ``alpha_ramp`` of the
    steps. ``human_share`` is that of a batch, if there are other pairs; ``smoothing`` that of LM's labels.

    ``itc`` and ``itm`` weigh the losses: BLIP's are all 1; one at 0 is switched off and not computed.
    """

    itc: float = 1.0
    itm: float = 1.0

    human_share: float = 0.5
    smoothing: float = 0.1
    itm_from: float = 0.3
    itm_latest: float = 0.5
    hard_from: float = 0.5
    queue: int = 0
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_ramp: float = 0.1

    def __post_init__(self) -> None:
        """Raises :class:`TrainingError` for a negative weight, or if there is nothing to learn."""
        weights = self.weights.values()
        if min(weights) < 0 or sum(weights) == 0:
            raise TrainingError(
                what="the losses cannot be weighed like this",
                evidence=", ".join(f"{name} {weight}" for name, weight in self.weights.items()),
                remedy="give weights of 0 or more, at least one above",
            )

    @property
    def weights(self) -> dict[str, float]:
        """Of each loss that this job has."""
        return {"itc": self.itc, "itm": self.itm}


@dataclass(frozen=True)
class WarmupSettings(LoopSettings):
    """The image encoder predicts the ``words`` most frequent content words of the human captions."""

    steps: int = 400
    lr: float = 1e-3
    words: int = 400


@dataclass(frozen=True)
class PretrainSettings(GroundingSettings):
    """ITC + ITM + LM, weighed by ``lm``, on human and web pairs.

    ``cleaned_share`` of a batch comes from the cleaned pairs of another run, if they are given; with 0 they are
    drawn from as the web pairs are, by number of images.
    """

    steps: int = 700
    lr: float = 1e-3
    warmup: int = 100
    human_share: float = 0.3
    cleaned_share: float = 0.0
    lm: float = 1.0

    @property
    def weights(self) -> dict[str, float]:
        return {**super().weights, "lm": self.lm}

    def other_shares(self, web: int, cleaned: int) -> tuple[float, float]:
        """The weights of so many web images and so many cleaned ones in what the human pairs leave of a batch.

        Raises :class:`TrainingError` when the shares are more than a batch.
        """
        rest = 1 - self.human_share - self.cleaned_share
        if rest < -1e-9:
            raise TrainingError(
                what="the shares of a batch are more than a batch",
                evidence=f"human_share {self.human_share}, cleaned_share {self.cleaned_share}",
                remedy="lower one of them",
            )
        return (max(0.0, rest), self.cleaned_share) if self.cleaned_share else (float(web), float(cleaned))


@dataclass(frozen=True)
class FilterSettings(GroundingSettings):
    """ITC + ITM on human pairs, and on web pairs if given (rehearsal on trusted ones; beyond BLIP).

    With ``edits`` each human text with something made false by rule (an object, a colour, a relation) is one more
    hard negative of its image: beyond BLIP, in English only.
    """

    steps: int = 250
    lr: float = 5e-4
    itm_from: float = 0.0
    edits: bool = False


@dataclass(frozen=True)
class CaptionerSettings(LoopSettings):
    """LM on human pairs, and on web pairs if given (those a filter kept; beyond BLIP); prompt masked.

    ``smoothing`` of the labels is 0.1 in BLIP. It teaches to leave that much mass on wrong words, which a nucleus
    of 0.9 only just cuts off: sampling from a small model goes better with none. ``human_share`` of a batch is
    human when it rehearses: what people did not caption needs most of it.
    """

    steps: int = 250
    lr: float = 5e-4
    human_share: float = 0.25
    prompt: str = "a picture of"
    smoothing: float = 0.1
