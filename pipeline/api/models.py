"""Models without a run around them: open one, caption images, score texts. Neither Ray nor a cluster is needed.

A model is a checkpoint's directory, an id on the hub, or a run: then it is the model that the run uses, computing as
it does there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capfilt.models import open as checkpoints
from capfilt.models.open import Filter
from capfilt.models.protocols import Captioner, Embedder, Inference
from capfilt.pipeline.ad_hoc import images
from capfilt.pipeline.api.run import Run
from capfilt.pipeline.ledger.ledger import Ledger

if TYPE_CHECKING:
    from capfilt.pipeline.ad_hoc.images import Found

Where = str | Path | Run


def open_captioner(
    model: Where, *, device: str = "cpu", batch: int = 16, inference: Inference | None = None
) -> Captioner:
    """The captioner of a checkpoint or a run, its weights on ``device``; it decodes ``batch`` captions at once.

    Without ``inference`` it computes in float32, or as the run does.

    Raises:
        ModelError: the checkpoint is missing, unsafe or of another kind, or the run has not trained it yet.
        UsageError: models cannot compute on ``device`` here.
    """
    where = _where(model)
    arithmetic = images.inference_for(where) if inference is None else inference
    return checkpoints.open_captioner(images.model_of(where, "captioner"), device, batch, arithmetic)


def open_filter(
    model: Where, *, device: str = "cpu", batch: int = 16, inference: Inference | None = None
) -> Filter:
    """The filter of a checkpoint or a run, its weights on ``device``; it reads ``batch`` images at once.

    It matches texts to images and embeds both. Arguments and errors are those of :func:`open_captioner`.
    """
    where = _where(model)
    arithmetic = images.inference_for(where) if inference is None else inference
    return checkpoints.open_filter(images.model_of(where, "filter"), device, batch, arithmetic)


def open_embedder(
    model: Where, *, device: str = "cpu", batch: int = 16, inference: Inference | None = None
) -> Embedder:
    """The model that embeds images and texts: of a run the one that it compares images with, else its filter.

    Arguments and errors are those of :func:`open_captioner`.
    """
    from capfilt.pipeline.search import models

    where = _where(model)
    arithmetic = images.inference_for(where) if inference is None else inference
    ledger = Ledger(where)
    found = models.model_of(ledger, None) if ledger.exists else where
    return checkpoints.open_filter(found, device, batch, arithmetic)


def caption(
    files: Sequence[str],
    model: Where,
    *,
    decoding: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    batch: int = 16,
) -> "Found":
    """Captions of images in files and below folders: ``{"file", "text", "logprob"}``, or what could not be read.

    ``decoding`` has fields of :class:`~capfilt.Decoding`; what it leaves out is the run's, or the default. The same
    image, model, decoding and seed give the same captions.

    Raises:
        RecipeError: for a value that cannot be decoded with.
        ModelError, UsageError: as :func:`open_captioner`.
    """
    where = _where(model)
    how = images.decoding_for(where, decoding or {}, seed)
    return images.caption(files, open_captioner(where, device=device, batch=batch), how, batch)


def score(
    files: Sequence[str], texts: Sequence[str], model: Where, *, device: str = "cpu", batch: int = 16
) -> "Found":
    """Every text with every image: ``{"file", "text", "itm", "itc"}``, or what could not be read.

    ``itm`` is the probability of a match, ``itc`` the cosine.

    Raises:
        UsageError: a text has nothing that the models read.
        ModelError: as :func:`open_captioner`.
    """
    return images.score(files, texts, open_filter(model, device=device, batch=batch), batch)


def _where(model: Where) -> str:
    return str(model.ledger.storage) if isinstance(model, Run) else str(model)
