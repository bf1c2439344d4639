"""What is looked at on every node. Sent by value: a node without capfilt can still say that it has none.

So it imports nothing of ours before it has seen whether that is there, and answers in plain types.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

LAG = 3.0  # seconds after which a file must be seen elsewhere: network file systems remember folders
GPU_SECONDS = 60.0
DNS_SECONDS = 5.0
_DEVICES = "import json; from capfilt.models.devices import devices; print(json.dumps(devices()._asdict()))"


class Question(TypedDict):
    """``files`` are sizes in bytes by path; ``output`` and ``token``: the storage, a name in it and what is there."""

    distributions: list[str]
    files: dict[str, int]
    output: str
    name: str
    token: str
    patience: float
    hosts: list[str]
    gpus: bool


class Answer(TypedDict):
    """``storage`` is empty when the token was read and an answer written; ``hosts`` has addresses or an error."""

    host: str
    python: str
    versions: dict[str, str]
    capfilt: str
    code: str
    missing: list[str]
    storage: str
    hosts: dict[str, list[str] | str]
    temp: str
    free: int
    total: int
    gpus: list[str] | None
    torch: str


def look(asked: Question, node: str) -> Answer:
    """Answer all questions; whatever goes wrong with one is its answer."""
    place, code = code_of()
    temp = tempfile.gettempdir()
    disk = shutil.disk_usage(temp)
    gpus, torch = gpus_here(hidden_by_ray=True) if asked["gpus"] and place else (None, "")
    return Answer(
        host=socket.gethostname(),
        python=platform.python_version(),
        versions=versions_of(asked["distributions"]),
        capfilt=place,
        code=code,
        missing=[path for path, size in asked["files"].items() if _size(path) != size],
        storage=_storage(asked, node) if asked["name"] and place else "",
        hosts=resolved(asked["hosts"]) if place else {},
        temp=temp,
        free=disk.free,
        total=disk.total,
        gpus=gpus,
        torch=torch,
    )


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_of() -> tuple[str, str]:
    """The folder that capfilt is imported from, empty when there is none, and a digest of its code."""
    spec = importlib.util.find_spec("capfilt")
    if spec is None or not spec.origin:
        return "", ""
    package = Path(spec.origin).parent
    folders = os.walk(package, followlinks=True)  # in a checkout its folders are links
    code = (Path(folder) / name for folder, _, names in folders for name in names if name.endswith(".py"))
    seen = hashlib.sha256()
    for path in sorted(code):
        seen.update(f"{path.relative_to(package).as_posix()}\x1f".encode() + path.read_bytes())
    return str(package), seen.hexdigest()


def resolved(hosts: Sequence[str]) -> dict[str, list[str] | str]:
    """The addresses of each name, or why there are none."""
    from capfilt.stages.ingest.fetch.dns import Resolver
    from capfilt.stages.ingest.fetch.error import FetchError

    names = Resolver()

    def one(host: str) -> list[str] | str:
        try:
            return list(names.addresses(host, DNS_SECONDS))
        except FetchError as fetch_error:
            return fetch_error.detail

    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return dict(zip(hosts, pool.map(one, hosts), strict=True))


def gpus_here(*, hidden_by_ray: bool) -> tuple[list[str] | None, str]:
    """The names of the GPUs that torch sees and its build; ``None`` and the reason when torch cannot say.

    In a process of its own: a broken driver may end it or hang it. Ray hides all GPUs from a task that asks for none.
    """
    env = dict(os.environ)
    if hidden_by_ray and not env.get("CUDA_VISIBLE_DEVICES"):
        env.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-P", "-c", _DEVICES]
    try:
        ended = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=GPU_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"torch gave no answer within {GPU_SECONDS:.0f} s"
    if ended.returncode:
        return None, (ended.stderr.strip().splitlines() or [f"it ended with code {ended.returncode}"])[-1]
    found: Mapping[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    kind = f"for {found['built_for']}" if found["built_for"] else "for CPUs"
    return found["gpus"], f"torch {found['torch']}, built {kind}"


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _storage(asked: Question, node: str) -> str:
    """Read what the client wrote, and write something for it to read; what is wrong, if anything is."""
    from capfilt.data_contracts.errors import CapfiltError
    from capfilt.pipeline.storage import patience, storage_at

    patience.SECONDS = asked["patience"]
    storage = storage_at(asked["output"])
    ends = time.monotonic() + LAG
    try:
        while True:
            try:
                read = storage.read(asked["name"]).decode(errors="replace")
            except FileNotFoundError:
                if time.monotonic() < ends:
                    time.sleep(0.2)
                    continue
                there = "://" in asked["output"] or os.path.isdir(asked["output"])
                return "what this machine wrote is not there: " + (
                    "it is another folder of the same name" if there else "there is no such folder"
                )
            if read != asked["token"]:
                return f"it reads {read[:40]!r} where this machine wrote {asked['token']!r}"
            taken = not storage.claim(f"{asked['name']}-{node}", asked["token"].encode())
            return "a name that nobody has used is taken" if taken else ""
    except CapfiltError as error:
        return f"{error.what}: {error.evidence}"
    except OSError as error:
        return f"{type(error).__name__}: {error}"
