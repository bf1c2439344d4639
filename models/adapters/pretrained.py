"""Loading a transformers model from a checkpoint directory: complete, float32, quiet, with its tokenizer.

transformers fills missing weights with random numbers and accepts any tokenizer; here both are errors.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.utils import logging

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import Checkpoint, brief, require_tokenizer, weight_files
from capfilt.models.text.normalise import is_cut, normalise_caption

# A vocabulary padded to a multiple of 128 is common; a wider gap means another model's tokenizer.
_VOCABULARY_PADDING = 128


def load_model(architecture: Any, checkpoint: Checkpoint) -> Any:
    """An instance of ``architecture``, frozen, in eval mode, on CPU; :class:`ModelError` if incomplete."""
    weight_files(checkpoint)  # refuses pickles with a better message than transformers'
    try:
        with _quietly():
            model, loading = architecture.from_pretrained(
                checkpoint.directory,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # reported below, with names, instead of in a log
                output_loading_info=True,
            )
    except Exception as error:  # what a config that does not fit raises depends on where it does not
        raise ModelError(
            what=f"transformers cannot load {checkpoint.where} as {architecture.__name__}",
            evidence=brief(error),
            remedy="check that config.json belongs to these weights",
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            what=f"{checkpoint.where} lacks weights of {architecture.__name__}, which would be random",
            evidence=f"{len(missing)} tensors, such as {missing[0]}; written as {checkpoint.architecture}",
            remedy=f"give a complete {architecture.__name__} checkpoint",
        )
    if wrong := sorted(loading["mismatched_keys"]):
        name, found, expected = wrong[0]
        raise ModelError(
            what=f"the weights of {checkpoint.where} have other sizes than its config.json says",
            evidence=f"{len(wrong)} tensors, such as {name}: {tuple(found)}, not {tuple(expected)}",
            remedy="put the config.json that belongs to these weights beside them",
        )
    return model.eval().requires_grad_(False)


def count_truncated(tokenizer: Any, texts: Sequence[str], limit: int) -> int:
    """How many texts lose something of themselves: words to :func:`normalise_caption`, or tokens to ``limit``."""
    if not texts:
        return 0
    cleaned = [normalise_caption(text) for text in texts]
    read = tokenizer(cleaned, truncation=False, verbose=False)["input_ids"]
    return sum(len(ids) > limit or is_cut(text) for ids, text in zip(read, texts, strict=True))


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bar and no table of unused weights: what is missing raises, the rest does not matter."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(
    checkpoint: Checkpoint,
    text: Any,
    special: tuple[str, ...] = ("sep_token_id", "pad_token_id"),
    unused: int = 0,
) -> Any:
    """The checkpoint's tokenizer, if it and the text model agree on the vocabulary and its special tokens.

    ``unused`` tokens at its end are never read, so the model needs no embeddings for them.
    """
    require_tokenizer(checkpoint)
    tokenizer = _load(AutoTokenizer, checkpoint, "tokenizer")
    tokens, rows = len(tokenizer), text.vocab_size
    wrong = [
        f"{name} is {getattr(tokenizer, name)} there and {getattr(text, name)} in config.json"
        for name in special
        if getattr(tokenizer, name) != getattr(text, name)
    ]
    if not tokens - unused <= rows < tokens + _VOCABULARY_PADDING:
        wrong.insert(0, f"it has {tokens} tokens, the model {rows} embeddings")
    if wrong:
        raise ModelError(
            what=f"the tokenizer of {checkpoint.where} does not fit its vocabulary",
            evidence="; ".join(wrong),
            remedy="put the tokenizer it was trained with beside the weights",
        )
    return tokenizer


def load_image_processor(checkpoint: Checkpoint) -> Any:
    """How the checkpoint's images are prepared, with Pillow: pixels do not depend on what else is installed."""
    return _load(AutoImageProcessor, checkpoint, "image preparation", backend="pil")


def load_processor(checkpoint: Checkpoint) -> Any:
    """Images and texts prepared together, as chat models and others with image tokens need it."""
    processor = _load(AutoProcessor, checkpoint, "processor")
    if not hasattr(processor, "tokenizer"):  # transformers falls back on a part of it
        raise ModelError(
            what=f"the model {checkpoint.where} has no processor for images and texts together",
            evidence=f"transformers finds no more than a {type(processor).__name__} there",
            remedy="put the processor_config.json it came with beside the weights",
        )
    processor.image_processor = load_image_processor(checkpoint)
    return processor


def _load(kind: Any, checkpoint: Checkpoint, what: str, **options: Any) -> Any:
    """``kind`` from the directory alone; it may raise anything for a damaged file, we :class:`ModelError`."""
    try:
        with _quietly():
            return kind.from_pretrained(
                checkpoint.directory, local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as error:
        raise ModelError(
            what=f"the model {checkpoint.where} has an unreadable {what}",
            evidence=brief(error),
            remedy=f"put the {what} it was trained with beside the weights",
        ) from error
