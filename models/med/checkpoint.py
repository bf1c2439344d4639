"""Model directories: ``config.json``, ``model.safetensors``, the tokenizer's files, and a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from data_contracts.errors import ModelError
from models.med.config import MODEL_TYPE, MedConfig, preset
from models.med.model import Med
from models.med.tokenizer import CaptionTokenizer


class Checkpoint(NamedTuple):
    model: Med
    tokenizer: CaptionTokenizer


def create(name: str, tokenizer: CaptionTokenizer, seed: int) -> Med:
    """A fresh model of preset ``name`` for this tokenizer; the same seed gives the same weights."""
    config = preset(
        name,
        vocabulary=tokenizer.size,
        pad=tokenizer.pad,
        cls=tokenizer.cls,
        sep=tokenizer.sep,
        dec=tokenizer.dec,
        enc=tokenizer.enc,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Med(config)


def save(
    directory: Path,
    model: Med,
    tokenizer: CaptionTokenizer,
    *,
    what: str,
    metrics: Mapping[str, object] | None = None,
) -> None:
    """Write a model directory; ``what`` says in the card what it is and how it was trained.

    Shared parameters are stored once, under their first name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in _unique(model).items()}
    save_file(tensors, str(directory / "model.safetensors"), metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    tokenizer.save(directory)
    (directory / "README.md").write_text(_card(directory.name, model, what, metrics or {}))


def load(directory: Path, device: str = "cpu") -> Checkpoint:
    """Read a model directory, ready to use (``eval`` mode).

    Raises :class:`ModelError` if it is no directory of ours, or its weights do not fit its config.
    """
    config = _config(directory)
    tokenizer = CaptionTokenizer.load(directory)
    if tokenizer.size != config.vocabulary:
        raise ModelError(
            what="the tokenizer and the model have different vocabularies",
            evidence=f"{directory}: {tokenizer.size} pieces, {config.vocabulary} embeddings",
            remedy="restore the tokenizer.json saved with the model",
        )
    model = Med(config)
    try:
        tensors = load_file(str(directory / "model.safetensors"), device="cpu")
    except Exception as error:  # missing, truncated, or not safetensors
        raise _unreadable(directory, f"model.safetensors: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in _unique(model).items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ModelError(
            what="the weights do not fit the model's config",
            evidence=f"{directory}: {len(wrong)} tensors missing, unknown or misshapen, first {wrong[0]}",
            remedy="restore config.json and model.safetensors from the same save",
        )
    model.load_state_dict(tensors, strict=False)
    return Checkpoint(model.to(device).eval(), tokenizer)


def _unique(model: Med) -> dict[str, torch.Tensor]:
    """Parameters and buffers, shared ones under their first name only."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _config(directory: Path) -> MedConfig:
    try:
        values = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(directory, f"config.json: {error}") from error
    if not isinstance(values, dict) or values.get("model_type") != MODEL_TYPE:
        kind = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise ModelError(
            what="this is not a MED model",
            evidence=f"{directory}/config.json: model_type {kind!r}, not {MODEL_TYPE!r}",
            remedy="give the directory of a model that capfilt trained",
        )
    return MedConfig.from_dict(values)


def _unreadable(directory: Path, evidence: str) -> ModelError:
    return ModelError(
        what="cannot read a model directory",
        evidence=f"{directory}: {evidence}",
        remedy="it should hold config.json, model.safetensors and tokenizer.json; train or copy it again",
    )


def _card(name: str, model: Med, what: str, metrics: Mapping[str, object]) -> str:
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = "".join(f"| {key} | {value} |\n" for key, value in metrics.items())
    table = f"\n## Metrics\n\n| metric | value |\n|---|---|\n{rows}" if metrics else ""
    return f"""---
library_name: capfilt
tags: [image-to-text, image-text-matching, capfilt, blip]
---

# {name}

{what}

A MED (multimodal mixture of encoder-decoder, BLIP, arXiv 2201.12086) with {count:,} parameters: {config.stem}
stem, {config.image_size} px images in patches of {config.patch}, {config.vision_layers} image layers of width
{config.vision_width}, {config.text_layers} text layers of width {config.text_width}, {config.vocabulary:,}
word pieces. Open it with `models.med.adapter.open_med(directory)`.
{table}"""
