"""Training less than all of a model: frozen parts, and LoRA (Hu et al., arXiv 2106.09685) by peft."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.model import Med
from capfilt.models.med.text import TextStack
from capfilt.models.med.vision import VisionEncoder
from capfilt.models.training.settings import LoopSettings

_PARTS = {"vision": ("vision_model",), "text": ("text_encoder", "text_decoder")}
# The projections of attention and of the MLPs, by the last part of their names.
_TARGETS = ["qkv", "projection", "fc1", "fc2", "query", "key", "value", "dense"]


@contextmanager
def trainable(model: Med, settings: LoopSettings) -> Iterator[None]:
    """The model as ``settings`` have it trained; at the end a plain one again, with what LoRA learnt merged in.

    Raises:
        TrainingError: nothing would be trained, or LoRA without peft.
    """
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for stack in model.modules():
        if isinstance(stack, VisionEncoder | TextStack):
            stack.recompute = settings.recompute
    for part in settings.freeze:
        for name in _PARTS[part]:
            if hasattr(model, name):
                getattr(model, name).requires_grad_(False)
    tuner = _lora(model, settings) if settings.lora else None
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(
            what="nothing is left to train",
            evidence=f"freeze: {', '.join(settings.freeze)}",
            remedy="freeze less",
        )
    try:
        yield
    finally:
        if tuner is not None:
            tuner.merge_and_unload()
        for stack in model.modules():
            if isinstance(stack, VisionEncoder | TextStack):
                stack.recompute = False
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)


def _lora(model: Med, settings: LoopSettings) -> Any:
    """Matrices of low rank beside every projection; heads and temperature are trained whole."""
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise TrainingError(
            what="LoRA needs a package that is not installed",
            evidence=str(error),
            remedy="pip install 'capfilt[lora]', or leave lora out",
        ) from error
    heads = [
        p
        for n, p in model.named_parameters()
        if n.startswith(("vision_proj", "text_proj", "itm_head", "temp"))
    ]
    config = LoraConfig(r=settings.lora, lora_alpha=2 * settings.lora, target_modules=_TARGETS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        tuner = LoraModel(model, config, "default")
    for parameter in heads:
        parameter.requires_grad_(True)
    return tuner
