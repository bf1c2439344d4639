"""All checks in their order. Each runs whatever the others found."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from capfilt.pipeline.doctor import inputs, installation, nodes
from capfilt.pipeline.doctor.finding import Check, Finding, Verdict, bounded
from capfilt.pipeline.doctor.output import PATIENCE, Output
from capfilt.pipeline.planning.load import load
from capfilt.pipeline.planning.schema import Recipe
from capfilt.pipeline.storage import is_url, patience

SECONDS = 30.0
LONG_SECONDS = 120.0  # what imports torch, walks through folders or asks a hub
CLUSTER_SECONDS = 240.0
LEAST = 256 * 10**6  # bytes of a shard, where no recipe says it


def examine(path: Path | None, address: str | None) -> Iterator[Finding]:
    """Look at this machine, at the recipe when there is one, and at the cluster; findings come as they are made.

    ``address`` null: the cluster in RAY_ADDRESS, or one that is started here.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        stack.enter_context(patience.at_most(PATIENCE))
        yield from _Examination(path, address, stack).all()


class _Examination:
    """What one check leaves for the next: the recipe, its output, the hosts and files that nodes are asked about."""

    def __init__(self, path: Path | None, address: str | None, stack: ExitStack) -> None:
        self._path, self._address, self._stack = path, address, stack
        self._recipe: Recipe | None = None
        self._output: Output | None = None
        self._hosts: inputs.Hosts = {}
        self._files: inputs.Files = {}
        self._told: set[str] = set()

    def all(self) -> Iterator[Finding]:
        yield from self._checked("python", installation.python)
        yield from self._checked("libraries", installation.libraries)
        if self._path:
            yield from self._checked("recipe", partial(self._load, self._path))
        yield from self._machine()
        if self._recipe:
            yield from self._inputs(self._recipe)
        yield from self._cluster()

    def _checked(
        self, name: str, check: Check, seconds: float = SECONDS, late: Verdict = "fail"
    ) -> Iterator[Finding]:
        for finding in bounded(name, check, seconds, late):
            self._told.add(finding.error)
            yield finding

    def _load(self, path: Path) -> Iterator[Finding]:
        self._recipe = load(path)
        yield Finding("recipe", "ok", f"{path}: the run is {self._recipe.run}")

    def _machine(self) -> Iterator[Finding]:
        recipe, here = self._recipe, not self._address
        needed = bool(recipe and (recipe.dedup or recipe.decontaminate))
        yield from self._checked("faiss", partial(installation.faiss, needed=needed))
        placed = recipe.placement.values() if recipe else ()
        gpus = max((keys.gpus or 0.0 for keys in placed), default=0.0)
        torch = partial(installation.torch, asked=gpus, here=here and bool(recipe))
        yield from self._checked("torch", torch, LONG_SECONDS)
        least = recipe.shards.target if recipe else LEAST
        yield from self._checked("temporary", partial(installation.temporary, least))

    def _inputs(self, recipe: Recipe) -> Iterator[Finding]:
        yield from self._checked("output", partial(self._write, recipe))
        if not is_url(recipe.output):
            yield from self._checked("disk", partial(_disk, recipe), late="warn")
        for role, sources in (("web", recipe.web), ("human", recipe.human)):
            for keys in sources:
                name = role if keys.name == role else f"{role} {keys.name}"
                look = partial(inputs.source, name, keys, recipe, self._hosts, self._files)
                yield from self._checked(name, look, LONG_SECONDS)
        yield from self._checked("calibration", partial(inputs.calibration, recipe), late="warn")
        if self._hosts:
            yield from self._checked("dns", partial(inputs.dns, self._hosts, recipe))
        yield from self._checked("models", partial(inputs.models, recipe, self._files), LONG_SECONDS)
        yield from self._checked("plan", partial(inputs.plan, recipe, self._told), LONG_SECONDS, "warn")

    def _write(self, recipe: Recipe) -> Iterator[Finding]:
        self._output = output = Output(recipe.output)
        self._stack.callback(lambda: [*bounded("output", output.close, SECONDS)])
        return output.check()

    def _cluster(self) -> Iterator[Finding]:
        if self._address and self._address.startswith(("http://", "https://")):
            look = partial(nodes.dashboard, self._address, self._recipe)
            yield from self._checked("cluster", look, LONG_SECONDS)
        else:
            wanted = nodes.Wanted(self._recipe, self._output, self._hosts, self._files)
            yield from self._checked("ray", partial(nodes.cluster, self._address, wanted), CLUSTER_SECONDS)


def _disk(recipe: Recipe) -> Iterator[Finding]:
    """Images are copied by ingest, and once more by an export that embeds them."""
    copies = 2 if recipe.export.images == "embed" else 1
    wanted = copies * inputs.size_of((*recipe.web, *recipe.human))
    return installation.disk("disk", Path(recipe.output), recipe.shards.target, wanted)
