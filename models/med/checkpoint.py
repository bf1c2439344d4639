"""Model directories, ours and Hugging Face's BLIP: config, safetensors, tokenizer, model card."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import (
    CLIP_MEAN,
    CLIP_STD,
    ROLES,
    brief,
    lacking,
    locate,
    require_memory,
    require_tokenizer,
    weight_files,
)
from capfilt.models.checkpoint import Checkpoint as Source
from capfilt.models.med.config import BLIP, MODEL_TYPE, MedConfig, preset
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.med.vision import resize_positions


class Checkpoint(NamedTuple):
    model: Med
    tokenizer: CaptionTokenizer


def create(name: str, tokenizer: CaptionTokenizer, seed: int) -> Med:
    """A fresh model of preset ``name`` for this tokenizer; the same seed gives the same weights."""
    tokenizer = tokenizer.with_dec_and_enc()
    ids = {token: getattr(tokenizer, token) for token in ("pad", "cls", "sep", "dec", "enc")}
    config = preset(name, vocabulary=tokenizer.size, **ids)
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

    A model with the ``patch`` stem is written as BLIP (:func:`save_blip`); one with the ``conv`` stem, which
    BLIP has not, in a layout of our own, in which shared parameters are stored once, under their first name.
    """
    if model.config.stem == "patch":
        save_blip(directory, model, tokenizer, what=what, metrics=metrics)
        return
    _write(directory, model.config.to_dict(), _unique(model))
    tokenizer.save(directory)
    (directory / "README.md").write_text(_card(directory.name, model, what, metrics or {}))


def save_blip(
    directory: Path,
    model: Med,
    tokenizer: CaptionTokenizer,
    *,
    what: str,
    metrics: Mapping[str, object] | None = None,
) -> None:
    """Write what transformers' two BLIP classes open, with the same outputs.

    Raises :class:`ModelError` for a model with a convolutional stem.
    """
    from capfilt.models.med.hugging_face import write_config, write_tensors

    _write(directory, write_config(model.config), write_tensors(model.state_dict(), model.config))
    tokenizer.save(directory)
    size = {"height": model.config.image_size, "width": model.config.image_size}
    preparation = {
        "image_processor_type": "BlipImageProcessor",
        "size": size,
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preparation, indent=2) + "\n")
    (directory / "README.md").write_text(_card(directory.name, model, what, metrics or {}))


def _write(directory: Path, config: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(stored, str(directory / "model.safetensors"), metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(directory: Path, device: str = "cpu", image_size: int | None = None) -> Checkpoint:
    """Read a model directory, ours or Hugging Face's BLIP, ready to use (``eval`` mode, float32).

    ``image_size`` (pixels) other than the checkpoint's interpolates its position embeddings. Raises
    :class:`ModelError` if it is neither, is damaged, does not fit into memory, or its weights or tokenizer do
    not fit its config.
    """
    source = locate(str(directory))
    require_tokenizer(source)
    require_memory(source)
    tokenizer = CaptionTokenizer.load(source.directory)
    tensors = read_tensors(source)
    if source.model_type == BLIP:
        from capfilt.models.med.hugging_face import read_config, select_tensors

        roles = tuple(role for role in ROLES if not lacking(tensors, role))
        config = read_config(source, tokenizer, tensors, roles)
        tensors = select_tensors(tensors, config)
    else:
        config = _config(source)
    _require_fit(source, tokenizer, config)
    if image_size not in (None, config.image_size):
        _require_whole_patches(image_size, config.patch)
        config = replace(config, image_size=image_size)
        name = "vision_model.embeddings.position_embedding"
        tensors[name] = resize_positions(tensors[name], image_size // config.patch)
    return Checkpoint(_assemble(source, config, tensors).to(device).eval(), tokenizer)


def read_tensors(source: Source) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, in float32. Raises :class:`ModelError` for a damaged file."""
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(source):
        try:
            tensors |= load_file(str(file), device="cpu")
        except Exception as error:  # truncated, or not safetensors
            raise ModelError(
                what=f"the weights of {source.where} cannot be read",
                evidence=f"{file.name}: {brief(error)}",
                remedy="fetch or copy the file again",
            ) from error
    # copies: the loader's tensors are views of the mapped file, which somebody may change or remove
    return {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in tensors.items()
    }


def _assemble(source: Source, config: MedConfig, tensors: dict[str, torch.Tensor]) -> Med:
    """A model that holds ``tensors``; a parameter with several names may come under any of them."""
    with torch.device("meta"):
        model = Med(config)
    wanted = model.state_dict(keep_vars=True)
    aliases: dict[int, list[str]] = {}
    for name, value in wanted.items():
        aliases.setdefault(id(value), []).append(name)
    found = dict(tensors)
    found.setdefault("temp", torch.tensor(0.07))  # BLIP's start; its released checkpoints have dropped theirs
    for names in aliases.values():
        given = next((name for name in names if name in found), None)
        if given is not None:
            found |= {name: found[given] for name in names if name not in found}
    if missing := sorted(wanted.keys() - found.keys()):
        raise ModelError(
            what=f"{source.where} lacks weights of a {' and '.join(config.roles)}, which would be random",
            evidence=f"{len(missing)} tensors, such as {missing[0]}; written as {source.architecture}",
            remedy="give a complete checkpoint",
        )
    wrong = sorted(name for name, value in wanted.items() if value.shape != found[name].shape)
    if wrong:
        given_shape, shape = tuple(found[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        raise ModelError(
            what=f"the weights of {source.where} have other sizes than its config.json says",
            evidence=f"{len(wrong)} tensors, such as {wrong[0]}: {given_shape}, not {shape}",
            remedy="put the config.json that belongs to these weights beside them",
        )
    model.load_state_dict({name: found[name] for name in wanted}, assign=True)
    if "captioner" in config.roles:
        model.text_decoder.tie()  # assigning has put tensors of their own in both places
    if config.stem == "conv":  # and weights in the layout of the file
        stem = model.vision_model.embeddings.patch_embedding
        stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.requires_grad_(True)


def _require_fit(source: Source, tokenizer: CaptionTokenizer, config: MedConfig) -> None:
    """Raises :class:`ModelError` unless tokenizer and model agree on the vocabulary and its special tokens."""
    wrong = [
        f"{name} is {getattr(tokenizer, name)} there and {getattr(config, name)} in config.json"
        for name in ("sep", "pad", "cls")
        if getattr(tokenizer, name) != getattr(config, name)
    ]
    # a vocabulary padded to a multiple of 128 is common; a wider gap means another model's tokenizer
    if not tokenizer.size <= config.vocabulary < tokenizer.size + 128:
        wrong.insert(0, f"it has {tokenizer.size} tokens, the model {config.vocabulary} embeddings")
    if wrong:
        raise ModelError(
            what=f"the tokenizer of {source.where} does not fit its vocabulary",
            evidence="; ".join(wrong),
            remedy="put the tokenizer it was trained with beside the weights",
        )


def _require_whole_patches(image_size: int, patch: int) -> None:
    if image_size < patch or image_size % patch:
        raise ModelError(
            what="images must be a whole number of patches wide",
            evidence=f"{image_size} px in patches of {patch}",
            remedy=f"give a multiple of {patch}",
        )


def _unique(model: Med) -> dict[str, torch.Tensor]:
    """Parameters and buffers, shared ones under their first name only."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _config(source: Source) -> MedConfig:
    if source.model_type != MODEL_TYPE:
        raise ModelError(
            what="this is not a MED or BLIP model",
            evidence=f"{source.where}/config.json: model_type {source.model_type!r}",
            remedy=f"give a directory of model_type {MODEL_TYPE!r} (trained here) or {BLIP!r} (Hugging Face's)",
        )
    return MedConfig.from_dict(source.config)


def _card(name: str, model: Med, what: str, metrics: Mapping[str, object]) -> str:
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = "".join(f"| {key} | {value} |\n" for key, value in metrics.items())
    table = f"\n## Metrics\n\n| metric | value |\n|---|---|\n{rows}" if metrics else ""
    theirs = "`BlipForImageTextRetrieval` and `BlipForConditionalGeneration`"
    also = f"; transformers opens it as {theirs}" if config.stem == "patch" else ""
    return f"""---
library_name: capfilt
tags: [image-to-text, image-text-matching, capfilt, blip]
---

# {name}

{what}

A MED (multimodal mixture of encoder-decoder, BLIP, arXiv 2201.12086) with {count:,} parameters: {config.stem}
stem, {config.image_size} px images in patches of {config.patch}, {config.vision_layers} image layers of width
{config.vision_width}, {config.text_layers} text layers of width {config.text_width}, {config.vocabulary:,}
word pieces. Open it with `capfilt.models.open.open_filter(directory)` or `open_captioner`{also}.
{table}"""
