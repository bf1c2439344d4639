"""Models without a run: caption and score images from files, outside any run and without Ray.

A caption's draws come from its image's bytes, as in a run: the same model, decoding and seed write the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from capfilt.data_contracts.errors import ModelError, UsageError
from capfilt.data_contracts.identity import image_id
from capfilt.models.checkpoint import Role
from capfilt.models.open import check_model
from capfilt.models.protocols import FLOAT32, Captioner, Decoding, Inference, Matcher
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import decoding_of
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.planning.models import inference_of
from capfilt.pipeline.planning.schema import CaptionKeys
from capfilt.pipeline.planning.status import model_digest
from capfilt.stages.ingest.sources.source import IMAGE_ENDINGS

if TYPE_CHECKING:
    from PIL.Image import Image


class Unreadable(NamedTuple):
    """A file that is not an image, and why."""

    file: str
    reason: str


Found = Iterator[dict[str, Any] | Unreadable]


class _Opened(NamedTuple):
    file: str
    image_id: str
    image: "Image"


def model_of(where: str, role: Role) -> str:
    """The model that ``--model`` means: of a run's folder its filter or captioner, otherwise ``where`` itself.

    Raises:
        ModelError: the run trains this model and has not done so yet.
    """
    ledger = Ledger(where)
    if not ledger.exists:
        return where
    record = ledger.record()
    if role not in record.fingerprints:
        models = parse(record.recipe).models
        return str((models.filter if role == "filter" else models.captioner).checkpoint)
    digest = model_digest(ledger.index(role))
    if not digest:
        raise ModelError(
            what=f"the run has not trained its {role} yet",
            evidence=f"nothing is committed in {where}/{role}",
            remedy=f"capfilt resume {where} --until {role}",
        )
    return str(ledger.model(role, digest))


def decoding_for(where: str, given: Mapping[str, Any], seed: int | None) -> Decoding:
    """How to caption with ``--model``: as a run's recipe says, else by the defaults, with what was ``given``.

    Raises:
        RecipeError: for a value that cannot be decoded with.
    """
    keys, own_seed = CaptionKeys(), 0
    ledger = Ledger(where)
    if ledger.exists:
        recipe = parse(ledger.record().recipe)
        keys, own_seed = recipe.caption, recipe.seed
    keys = keys.model_copy(update={name: value for name, value in given.items() if value is not None})
    facts = check_model(model_of(where, "captioner"), "captioner")
    return decoding_of(keys, own_seed if seed is None else seed, facts)


def inference_for(where: str) -> Inference:
    """The arithmetic of ``--model``: a run's own, so that its figures come out again; else float32."""
    ledger = Ledger(where)
    if not ledger.exists:
        return FLOAT32
    return inference_of(parse(ledger.record().recipe).models)


def caption(files: Sequence[str], captioner: Captioner, decoding: Decoding, batch: int) -> Found:
    """``{"file", "text", "logprob"}`` for every caption of every image."""

    def write(opened: Sequence[_Opened]) -> list[list[dict[str, Any]]]:
        images, ids = [each.image for each in opened], [each.image_id for each in opened]
        return [
            [{"text": " ".join(written.text.split()), "logprob": written.logprob} for written in own]
            for own in captioner.caption(images, ids, decoding)
        ]

    return _through(files, write, batch)


def score(files: Sequence[str], texts: Sequence[str], matcher: Matcher, batch: int) -> Found:
    """``{"file", "text", "itm", "itc"}`` for every text with every image, read as a run reads them.

    Raises:
        UsageError: a text is nothing but punctuation to the models.
    """
    from capfilt.models.text.normalise import normalise_caption

    readings = [normalise_caption(text) for text in texts]
    if "" in readings:
        raise UsageError(
            what="there is nothing to score in a text",
            evidence=f"{texts[readings.index('')]!r} has nothing but punctuation, which the models do not read",
            remedy="give --text with words",
        )

    def judge(opened: Sequence[_Opened]) -> list[list[dict[str, Any]]]:
        matches = matcher.match([each.image for each in opened], [readings] * len(opened))
        return [
            [
                {"text": text, "itm": match.itm, "itc": match.itc}
                for text, match in zip(texts, own, strict=True)
            ]
            for own in matches
        ]

    return _through(files, judge, batch)


def _through(
    files: Sequence[str], work: Callable[[Sequence[_Opened]], list[list[dict[str, Any]]]], batch: int
) -> Found:
    held: list[_Opened] = []
    for opened in open_files(files):
        if isinstance(opened, Unreadable):
            yield opened
            continue
        held.append(opened)
        if len(held) == batch:
            yield from _rows(held, work(held))
            held = []
    if held:
        yield from _rows(held, work(held))


def _rows(opened: Sequence[_Opened], found: list[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    return ({"file": each.file, **row} for each, own in zip(opened, found, strict=True) for row in own)


def open_files(files: Sequence[str]) -> Iterator[_Opened | Unreadable]:
    """The images, one at a time; a folder stands for the images anywhere below it."""
    from capfilt.models.images.decode import UndecodableImage, decode

    for given in files:
        path = Path(given)
        below = [path]
        if path.is_dir():
            below = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGE_ENDINGS]
        if not below:
            yield Unreadable(given, "no images in this folder")
        for file in below:
            try:
                data = file.read_bytes()
                yield _Opened(str(file), image_id(data), decode(data))
            except OSError as error:
                yield Unreadable(str(file), error.strerror or str(error))
            except UndecodableImage as error:
                yield Unreadable(str(file), str(error))
