"""Checks of this machine: Python, libraries, faiss, PyTorch, disks."""

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.units import size
from capfilt.pipeline.doctor.finding import Finding
from capfilt.pipeline.doctor.probe import code_of, gpus_here, versions_of
from capfilt.pipeline.ledger.versions import LIBRARIES
from capfilt.stages.dedup.neighbours import DISTRIBUTIONS, require_faiss
from capfilt.stages.stage import MODEL_LIBRARIES

FULL = 0.95  # of its temporary folder's disk: then Ray takes no more objects (local_fs_capacity_threshold)


def required() -> dict[str, SpecifierSet]:
    """What capfilt asks for without its extras, by distribution.

    Raises:
        UsageError: capfilt is not installed in this environment.
    """
    try:
        given = [Requirement(line) for line in importlib.metadata.requires("capfilt") or ()]
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            what="capfilt is not installed in this environment",
            evidence=f"its code lies in {code_of()[0]}",
            remedy="pip install it: a run records its version and those of its libraries",
        ) from error
    return {
        one.name.lower(): one.specifier
        for one in given
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def decisive() -> set[str]:
    """The distributions whose version a run records, or a stage's fingerprint holds."""
    return {"capfilt", *LIBRARIES, *MODEL_LIBRARIES, "ftfy", "scikit-learn"}


def python() -> Iterator[Finding]:
    required()
    version = platform.python_version()
    asked = importlib.metadata.metadata("capfilt")["Requires-Python"]
    sound = SpecifierSet(asked).contains(version, prereleases=True)
    found = f"{version}; capfilt asks for {asked}"
    yield Finding("python", "ok" if sound else "fail", found, "" if sound else "make an environment with it")


def libraries() -> Iterator[Finding]:
    """Against what capfilt's metadata asks for; in a checkout also against what it was tested with."""
    asked = required()
    found = versions_of(asked)
    missing = sorted(asked.keys() - found.keys())
    wrong = [
        f"{name} {found[name]} (asked for: {asked[name]})"
        for name in sorted(found)
        if not asked[name].contains(found[name], prereleases=True)
    ]
    if missing or wrong:
        yield Finding(
            "libraries",
            "fail",
            "; ".join([*(f"{name} is not installed" for name in missing), *wrong]),
            "pip install -c constraints.txt capfilt, into an environment of its own",
        )
        return
    own = importlib.metadata.version("capfilt")
    place, _ = code_of()
    tested = _tested(Path(place) / "constraints.txt")
    others = [
        f"{name} {found[name]} (tested: {tested[name]})"
        for name in sorted(found)
        if name in tested and Version(found[name]).public != tested[name]
    ]
    said = (
        f"capfilt {own} from {place}, ray {found['ray']}, torch {found['torch']}, {len(found)} as asked for"
    )
    if others:
        yield Finding(
            "libraries", "warn", f"{said}; but {'; '.join(others)}", "pip install -c constraints.txt capfilt"
        )
    else:
        yield Finding("libraries", "ok", said)


def _tested(constraints: Path) -> dict[str, str]:
    if not constraints.is_file():
        return {}
    pairs = (line.partition("==") for line in constraints.read_text().splitlines())
    return {name.strip().lower(): version.strip() for name, sign, version in pairs if sign}


def faiss(*, needed: bool) -> Iterator[Finding]:
    """Both of its packages are wrong whatever the recipe asks for; none of them, only where it is needed."""
    found = versions_of(DISTRIBUTIONS)
    if not found and not needed:
        yield Finding("faiss", "ok", "not installed; dedup, decontaminate and capfilt search need it")
        return
    require_faiss()
    yield Finding("faiss", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def torch(*, asked: float, here: bool) -> Iterator[Finding]:
    """Whether PyTorch works; ``asked`` GPUs a worker are needed of this machine when the run is to be ``here``."""
    gpus, said = gpus_here(hidden_by_ray=False)
    if gpus is None:
        yield Finding("torch", "fail", said, "reinstall torch for this machine's driver: https://pytorch.org")
    elif here and asked > len(gpus):
        yield Finding(
            "torch",
            "fail",
            f"placement asks for {asked:g} GPUs a worker, {len(gpus)} are seen by {said}",
            "see to the driver (nvidia-smi) and to torch's build, or take `gpus` out of placement",
        )
    else:
        yield Finding("torch", "ok", f"{said}: {', '.join(gpus) or 'no GPU'}")


def disk(name: str, folder: Path, least: int, wanted: int = 0) -> Iterator[Finding]:
    """Room in the folder, or where it will be: fails under ``least`` bytes, warns under ``wanted``."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    found = f"{size(usage.free)} free of {size(usage.total)} at {folder}"
    remedy = "make room, or give another " + ("TMPDIR" if name == "temporary" else "output")
    if usage.free < least:
        yield Finding(name, "fail", f"{found}, less than one shard ({size(least)})", remedy)
    elif usage.free < wanted:
        yield Finding(name, "warn", f"{found}; the run's copies of the images take {size(wanted)}", remedy)
    elif name == "temporary" and usage.free < (1 - FULL) * usage.total:
        yield Finding(
            name, "warn", f"{found}; Ray takes no more objects on one that is {FULL:.0%} full", remedy
        )
    else:
        yield Finding(name, "ok", found)


def temporary(least: int) -> Iterator[Finding]:
    return disk("temporary", Path(tempfile.gettempdir()), least)
