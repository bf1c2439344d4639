"""A model on disk or on the hub, before any of it is loaded: where it lies, what it is, whether it is safe.

Nothing here imports torch or transformers: the planner asks these questions on a machine that may never run
the model. Only safetensors are read: the older ``.bin`` and ``.pt`` weights are pickles, and opening a pickle
runs whatever code its author put there. ``auto_map``, code shipped with a model, is refused likewise.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from capfilt.data_contracts.errors import ModelError
from capfilt.data_contracts.fingerprint import digest_of_contents

Role = Literal["filter", "captioner"]
ROLES: tuple[Role, ...] = ("filter", "captioner")
Shapes = dict[str, tuple[int, ...]]

# The files that decide what a model computes; model cards, metrics and optimiser states do not.
SETTINGS = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What BLIP, like CLIP, centres and scales pixels with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A model directory whose configuration has been read; ``commit`` is set when it came from the hub."""

    where: str
    directory: Path
    commit: str | None
    config: dict[str, Any]

    @property
    def pinned(self) -> str:
        """``where``, but a hub id names its commit: the same model tomorrow and on another machine."""
        return self.where if self.commit is None else f"{_repo(self.where)}@{self.commit}"

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", "unknown"))

    @property
    def architecture(self) -> str:
        """The class that wrote it, for messages; what decides is which weights are there."""
        return ", ".join(self.config.get("architectures") or ["unknown"])


def locate(where: str, *, weights: bool = True) -> Checkpoint:
    """The checkpoint at ``where``: a directory, or a hub id ``owner/name`` or ``owner/name@revision``.

    A hub id is fetched into Hugging Face's own cache (configuration, tokenizer and, with ``weights``,
    safetensors) and pinned to the commit it resolved to. Raises :class:`ModelError` for what is missing or
    would run code.
    """
    directory, commit = Path(where).expanduser(), None
    if not directory.is_dir():
        _refuse_unless_hub_id(where, directory)
        files = ["*.json", "*.jinja", "merges.txt", "vocab.txt"]
        directory = _fetch(where, [*files, *([WEIGHTS, "model-*.safetensors"] if weights else [])])
        commit = directory.name
    config = _read_json(directory / "config.json", where)
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if (directory / name).is_file() and "auto_map" in _read_json(directory / name, where):
            raise ModelError(
                what=f"the model {where} brings its own code, which capfilt does not run",
                evidence=f"'auto_map' in {directory / name}",
                remedy="use a checkpoint of an architecture that transformers itself implements",
            )
    return Checkpoint(where, directory, commit, config)


def locate_family(where: str, family: str) -> Checkpoint:
    """:func:`locate`, for a model of one ``model_type``; :class:`ModelError` for another."""
    checkpoint = locate(where)
    if checkpoint.model_type != family:
        raise ModelError(
            what=f"{where} is not a {family} model",
            evidence=f"its config.json says model_type {checkpoint.model_type!r}",
            remedy=f"give a directory that a plain {family} model was saved to",
        )
    return checkpoint


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The safetensors files of the model, sorted; :class:`ModelError` if none or not all are there."""
    directory, where = checkpoint.directory, checkpoint.where
    if (directory / INDEX).is_file():
        shards = _read_json(directory / INDEX, where).get("weight_map", {}).values()
        files = [directory / name for name in sorted(set(shards))]
    else:
        files = [directory / WEIGHTS]
    missing = [file.name for file in files if not file.is_file()]
    if not missing:
        return files
    pickles = sorted(file.name for file in directory.iterdir() if file.suffix in _PICKLES)
    if not pickles:
        raise ModelError(
            what=f"the model {where} has no weights",
            evidence=f"{', '.join(missing[:3])} not in {directory}",
            remedy="finish the download or the copy, or name another checkpoint",
        )
    kind = checkpoint.architecture if checkpoint.architecture != "unknown" else "AutoModel"
    raise ModelError(
        what=f"the weights of {where} are pickles, which can run code when opened; capfilt reads safetensors",
        evidence=f"{', '.join(pickles[:3])} in {directory}, and no {WEIGHTS}",
        remedy=(
            'if you trust them, convert them once: python -c "from transformers import AutoProcessor as P, '
            f"{kind} as M; "
            f"M.from_pretrained('{where}', use_safetensors=False).save_pretrained('{where}-safe'); "
            f"P.from_pretrained('{where}').save_pretrained('{where}-safe')\""
        ),
    )


def tensor_shapes(checkpoint: Checkpoint) -> Shapes:
    """Name and shape of every tensor, from the file headers alone, the hub's if not fetched.

    A truncated or unreadable file raises :class:`ModelError`.
    """
    if checkpoint.commit is not None and not any(checkpoint.directory.glob("model*.safetensors")):
        return _remote_shapes(checkpoint)
    shapes: Shapes = {}
    for file in weight_files(checkpoint):
        try:
            with safe_open(str(file), framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 (a handle, not a mapping)
                    shapes[name] = tuple(weights.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise ModelError(
                what=f"the weights of {checkpoint.where} cannot be read",
                evidence=f"{file}: {error}",
                remedy="fetch or copy the file again",
            ) from error
    return shapes


# Without these tensors a model of the role would have to make something up.
BLIP_NEEDS: dict[Role, tuple[str, ...]] = {
    "filter": ("itm_head.weight", "vision_proj.weight", "text_proj.weight", "text_encoder.", "vision_model."),
    "captioner": ("text_decoder.cls.predictions.", "text_decoder.bert.", "vision_model."),
}


def lacking(shapes: Mapping[str, object], role: Role) -> list[str]:
    """What BLIP weights with these names have not got that ``role`` needs: names, or parts of the model."""
    return [need for need in BLIP_NEEDS[role] if not any(name.startswith(need) for name in shapes)]


def require_tokenizer(checkpoint: Checkpoint) -> None:
    """:class:`ModelError` without a vocabulary: transformers would make up a tokenizer of special tokens."""
    if not any((checkpoint.directory / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise ModelError(
            what=f"the model {checkpoint.where} has no tokenizer",
            evidence=f"neither tokenizer.json nor vocab.txt in {checkpoint.directory}",
            remedy="put the tokenizer it was trained with beside the weights",
        )


def pixel_statistics(checkpoint: Checkpoint) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in training; CLIP's where the checkpoint does not say."""
    processor = checkpoint.directory / "processor_config.json"
    settings = checkpoint.directory / "preprocessor_config.json"
    found: dict[str, Any] = {}
    if processor.is_file():
        found = _read_json(processor, checkpoint.where).get("image_processor", {})
    elif settings.is_file():
        found = _read_json(settings, checkpoint.where)
    return tuple(found.get("image_mean") or CLIP_MEAN), tuple(found.get("image_std") or CLIP_STD)


def require_memory(checkpoint: Checkpoint, available: int | None = None) -> None:
    """Raises :class:`ModelError` for weights that do not fit into ``available`` bytes: by default, what this
    machine and the process's control group have left. A kernel that runs out kills without a word."""
    needed = sum(file.stat().st_size for file in weight_files(checkpoint))
    free = free_memory() if available is None else available
    if needed > free:
        raise ModelError(
            what=f"the model {checkpoint.where} is larger than the memory that is free",
            evidence=f"{needed / 1e9:.2f} GB of weights, {free / 1e9:.2f} GB free",
            remedy="use a machine with more memory, fewer actors on this one (placement), or a smaller model",
        )


def free_memory() -> int:
    """Bytes that this process may still take, by Linux's account; without limit where there is none."""
    frees = [sys.maxsize]
    with suppress(OSError):
        reports = re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        frees += [int(kilobytes) * 1024 for kilobytes in reports]
    with suppress(OSError, ValueError):  # no such control group, or "max"
        group = Path("/sys/fs/cgroup")
        frees.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(frees)


def count_parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def digest_of(where: str) -> str:
    """What identifies the model's behaviour: equal digests compute equal outputs.

    For a directory the sha256 (hex) over names, sizes and contents of its weights, configuration, tokenizer
    and preprocessor files, sorted by name and streamed; for a hub id ``owner/name@commit``, which the hub
    guarantees as well. Raises :class:`ModelError` as :func:`locate` and :func:`weight_files` do.
    """
    checkpoint = locate(where, weights=False)
    if checkpoint.commit is not None:
        return checkpoint.pinned
    settings = [checkpoint.directory / name for name in SETTINGS]
    files = weight_files(checkpoint) + [file for file in settings if file.is_file()]
    return digest_of_contents(
        (file.name, _sha256(file)) for file in sorted(files, key=lambda file: file.name)
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def brief(error: Exception, length: int = 200) -> str:
    """An error of a library on one line, as evidence."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:length]


def _repo(where: str) -> str:
    return where.partition("@")[0]


def _refuse_unless_hub_id(where: str, directory: Path) -> None:
    local = where.startswith((".", "/", "~")) or directory.exists() or directory.parent.is_dir()
    if local or not _HUB_ID.fullmatch(where):
        raise ModelError(
            what=f"there is no model at {where}",
            evidence=f"{directory.absolute()} is {'a file' if directory.exists() else 'missing'}",
            remedy="give a directory with config.json and model.safetensors, or a hub id such as owner/name",
        )


def _fetch(where: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # takes a while to load, and most models lie in folders

    try:
        revision = where.partition("@")[2] or None
        return Path(snapshot_download(_repo(where), revision=revision, allow_patterns=patterns))
    except (
        OSError,
        ValueError,
    ) as error:  # every error of the hub and of the network under it is one of these
        raise ModelError(
            what=f"the model {where} could not be fetched, and there is no directory of that name",
            evidence=brief(error),
            remedy="check the id and the network, or fetch it elsewhere and give its directory",
        ) from error


def _remote_shapes(checkpoint: Checkpoint) -> Shapes:
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        files = get_safetensors_metadata(_repo(checkpoint.where), revision=checkpoint.commit).files_metadata
    except NotASafetensorsRepoError as error:
        weight_files(checkpoint)  # raises, with the remedy
        raise AssertionError("unreachable") from error
    except (OSError, ValueError) as error:
        raise ModelError(
            what=f"the weights of {checkpoint.where} could not be inspected",
            evidence=brief(error),
            remedy="check the network, or fetch the model elsewhere and give its directory",
        ) from error
    return {name: tuple(info.shape) for file in files.values() for name, info in file.tensors.items()}


def _read_json(file: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            what=f"{where} is not a model directory",
            evidence=f"there is no {file}",
            remedy="give a directory in the Hugging Face layout: config.json, model.safetensors, tokenizer",
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            what=f"the model {where} cannot be read",
            evidence=f"{file}: {error}",
            remedy="copy the file again",
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            what=f"the model {where} cannot be read",
            evidence=f"{file} holds a {type(content).__name__}, not an object",
            remedy="copy the file again",
        )
    return content
