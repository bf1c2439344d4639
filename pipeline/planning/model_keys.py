"""The recipe's `models`: checkpoints that are brought, and the trainings of those that are not."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from capfilt.models.protocols import Precision
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    GroundingSettings,
    LoopSettings,
    PretrainSettings,
    WarmupSettings,
)
from capfilt.pipeline.planning.section import Listed, LocalPath, ModelName, PathOrUrl, Section

# Keys whose default each training has for itself.
Steps = Annotated[int, Field(description="optimizer steps")]
Rate = Annotated[float, Field(description="learning rate after the warm-up, then half a cosine to zero")]
Ramp = Annotated[int, Field(description="steps over which the learning rate rises")]
HumanShare = Annotated[float, Field(description="share of a batch that are human pairs, if there are others")]
Smoothing = Annotated[float, Field(description="label smoothing of LM")]
ItmFrom = Annotated[float, Field(description="recall at 1 of ITC among human pairs at which ITM starts")]
Checkpoint = Annotated[
    ModelName | None, Field(description="a model directory or an id on the hub, perhaps with @commit")
]


class LoopKeys(Section):
    """What every training has (docs/training.md)."""

    batch: int = Field(default=LoopSettings.batch, description="pairs a step")
    warmup: Ramp = LoopSettings.warmup
    weight_decay: float = Field(default=LoopSettings.weight_decay, description="of AdamW, on matrices")
    clip: float = Field(default=LoopSettings.clip, description="largest norm of the gradient")
    crop: float = Field(
        default=LoopSettings.crop, description="smallest share of an image's area that a crop keeps"
    )
    flip: bool = Field(default=LoopSettings.flip, description="mirror half of the images: left becomes right")
    randaugment: int = Field(
        default=LoopSettings.randaugment, description="RandAugment operations an image (BLIP: 2)"
    )
    window: int = Field(default=LoopSettings.window, description="images among which the order is shuffled")
    accumulate: int = Field(
        default=LoopSettings.accumulate, description="parts of a batch that are gone through one by one"
    )
    precision: Literal["fp32", "bf16"] | None = Field(
        default=None,
        description="left out: bf16 on GPUs (by `placement`), fp32 on CPUs; weights stay float32",
    )
    recompute: bool = Field(
        default=LoopSettings.recompute,
        description="activation checkpointing: less memory for a third more time",
    )
    freeze: Listed[Literal["vision", "text"]] = Field(
        default=LoopSettings.freeze, description="parts that are not trained"
    )
    lora: int = Field(
        default=LoopSettings.lora,
        description="rank of the matrices that are trained instead of the layers (needs `capfilt[lora]`); 0: off",
    )
    validate_every: int | None = Field(
        default=None,
        description="steps between two validations on held-out human pairs; left out: a tenth; 0: never",
    )


class GroundingKeys(LoopKeys):
    """What pretraining and the filter have: ITC and ITM."""

    itc: float = Field(default=GroundingSettings.itc, description="weight of ITC; 0 switches it off")
    itm: float = Field(default=GroundingSettings.itm, description="weight of ITM; 0 switches it off")
    human_share: HumanShare = GroundingSettings.human_share
    smoothing: Smoothing = GroundingSettings.smoothing
    itm_from: ItmFrom = GroundingSettings.itm_from
    itm_latest: float = Field(
        default=GroundingSettings.itm_latest,
        description="share of the steps after which ITM starts at the latest",
    )
    hard_from: float = Field(
        default=GroundingSettings.hard_from,
        description="recall at 1 from which ITM's negatives are as hard as BLIP's",
    )
    queue: int = Field(
        default=GroundingSettings.queue,
        description="length of the queue of BLIP's momentum encoders; 0: ITC compares within the batch",
    )
    momentum: float = Field(default=GroundingSettings.momentum, description="decay of the momentum encoders")
    alpha: float = Field(default=GroundingSettings.alpha, description="weight of their soft targets")
    alpha_ramp: float = Field(
        default=GroundingSettings.alpha_ramp, description="share of the steps over which alpha rises"
    )


class WarmupKeys(LoopKeys):
    """The image encoder first learns to predict words of the human captions, or the labels of other images."""

    steps: Steps = WarmupSettings.steps
    lr: Rate = WarmupSettings.lr
    words: int = Field(
        default=WarmupSettings.words,
        description="how many of the most frequent content words of the captions",
    )
    images: LocalPath | None = Field(
        default=None, description="a folder of labelled images, instead of words"
    )
    labels: LocalPath | None = Field(default=None, description="their labels: a table `file,label`")


class PretrainKeys(GroundingKeys):
    """ITC + ITM + LM on human and web pairs."""

    steps: Steps = PretrainSettings.steps
    lr: Rate = PretrainSettings.lr
    warmup: Ramp = PretrainSettings.warmup
    human_share: HumanShare = PretrainSettings.human_share
    cleaned_share: float = Field(
        default=PretrainSettings.cleaned_share,
        description="share of a batch that are cleaned pairs of `from_run`; 0: by number of images",
    )
    lm: float = Field(default=PretrainSettings.lm, description="weight of LM; 0 switches it off")
    from_run: PathOrUrl | None = Field(
        default=None,
        description="a finished run whose cleaned pairs are learnt from, too (docs/rehearsal.md)",
    )


class FilterKeys(GroundingKeys):
    """The filter: a checkpoint, or ITC + ITM on human pairs; both: the checkpoint is finetuned."""

    checkpoint: Checkpoint = None
    steps: int | None = Field(
        default=None,
        description=f"optimizer steps; left out: {FilterSettings.steps}, or 0 with a checkpoint",
    )
    lr: Rate = FilterSettings.lr
    itm_from: ItmFrom = FilterSettings.itm_from
    edits: bool = Field(
        default=FilterSettings.edits,
        description="human texts made false by rule are negatives, too (English; beyond BLIP)",
    )


class CaptionerKeys(LoopKeys):
    """The captioner: a checkpoint, or LM on human pairs; both: the checkpoint is finetuned."""

    checkpoint: Checkpoint = None
    steps: int | None = Field(
        default=None,
        description=f"optimizer steps; left out: {CaptionerSettings.steps}, or 0 with a checkpoint",
    )
    lr: Rate = CaptionerSettings.lr
    human_share: HumanShare = CaptionerSettings.human_share
    prompt: str = Field(default=CaptionerSettings.prompt, description="leads every text and is not learnt")
    smoothing: Smoothing = CaptionerSettings.smoothing


class ParentsKeys(Section):
    """Directories of a plain ViT and a plain BERT to start from, as BLIP's pretraining does."""

    vision: LocalPath = Field(description="a ViT")
    text: LocalPath = Field(description="a BERT")


def _word(value: object) -> object:
    """YAML reads `on` and `off` as truth values."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Switch = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(_word, json_schema_input_type=Literal["auto", "on", "off"] | bool),
]


class ModelsKeys(Section):
    """Models that are brought (`checkpoint`), or trained here from `init` on."""

    filter: FilterKeys
    captioner: CaptionerKeys
    init: ModelName | ParentsKeys | None = Field(
        default=None,
        description="what trainings start from: a preset (tiny, small, base, large), a BLIP or capfilt directory, "
        "or two parents",
    )
    tokenizer: ModelName = Field(
        default="wordpiece:8000",
        description="of a preset: wordpiece:SIZE, trained on your texts, or a directory",
    )
    warmup: WarmupKeys | None = Field(default=None, description="left out: there is no such training")
    pretrain: PretrainKeys | None = Field(default=None, description="left out: there is no such training")
    precision: Literal["auto"] | Precision = Field(
        default="auto",
        description="of captioning and scoring; auto: what the machine that loads the recipe is fast at, which the "
        "run keeps",
    )
    itm_token: Literal["cls", "enc"] | None = Field(
        default=None,
        description="first token of a text in the matching head; left out: what the filter records",
    )
    rehearsal: Switch = Field(
        default="auto",
        description="finetune on trusted web texts, too (beyond BLIP); auto: where the human captions are narrower "
        "than the web",
    )
