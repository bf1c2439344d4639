"""All checks in their order. Each runs whatever the others found."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.doctor import inputs, installation, nodes
from pipeline.doctor.finding import Check, Finding, Verdict, bounded
from pipeline.doctor.output import PATIENCE, Output
from pipeline.recipe import Recipe, load
from pipeline.storage import is_url, patience

SECONDS = 30.0
LONG_SECONDS = 120.0  # what imports torch, walks through folders or asks a hub
CLUSTER_SECONDS = 240.0
LEAST = 256 * 10**6  # bytes of a shard, where no recipe says it


def examine(path: Path | None, address: str | None) -> Iterator[Finding]:
    """Look at this machine, at the recipe when there is one, and at the cluster; findings come as they are made."""
    told: list[Finding] = []

    def checked(
        name: str, check: Check, seconds: float = SECONDS, late: Verdict = "fail"
    ) -> Iterator[Finding]:
        for finding in bounded(name, check, seconds, late):
            told.append(finding)
            yield finding

    patience.SECONDS = min(patience.SECONDS, PATIENCE)
    yield from checked("python", installation.python)
    yield from checked("libraries", installation.libraries)
    loaded: list[Recipe] = []
    if path:
        yield from checked("recipe", partial(_load, path, loaded))
    recipe = loaded[0] if loaded else None
    needed = bool(recipe and (recipe.dedup or recipe.decontaminate))
    yield from checked("faiss", partial(installation.faiss, needed=needed))
    web = bool(address) and str(address).startswith(("http://", "https://"))
    gpus = max((keys.gpus for keys in recipe.placement.values()), default=0.0) if recipe else 0.0
    yield from checked(
        "torch", partial(installation.torch, asked=gpus, here=bool(recipe) and not address), LONG_SECONDS
    )
    least = recipe.shards.target if recipe else LEAST
    yield from checked("temporary", partial(installation.temporary, least))
    hosts: inputs.Hosts = {}
    files: inputs.Files = {}
    output: list[Output] = []
    try:
        if recipe:
            yield from checked("output", partial(_output, recipe, output))
            if not is_url(recipe.output):
                yield from checked("disk", partial(_disk, recipe), SECONDS, "warn")
            for role, sources in (("web", recipe.web), ("human", recipe.human)):
                for keys in sources:
                    look = partial(inputs.source, role, keys, recipe, hosts, files)
                    yield from checked(f"{role} {keys.name}".removesuffix(f" {role}"), look, LONG_SECONDS)
            yield from checked("calibration", partial(inputs.calibration, recipe), SECONDS, "warn")
            if hosts:
                yield from checked("dns", partial(inputs.dns, hosts, recipe))
            yield from checked("models", partial(inputs.models, recipe, files), LONG_SECONDS)
            said = [finding.found for finding in told]
            yield from checked("plan", partial(inputs.plan, recipe, said), LONG_SECONDS, "warn")
        if web:
            yield from checked("cluster", partial(nodes.dashboard, str(address), recipe))
        else:
            wanted = nodes.Wanted(recipe, output[0] if output else None, hosts, files)
            yield from checked("ray", partial(nodes.cluster, address, wanted), CLUSTER_SECONDS)
    finally:
        for one in output:
            list(bounded("output", lambda one=one: one.close() or (), SECONDS))  # type: ignore[misc]


def _load(path: Path, loaded: list[Recipe]) -> Iterator[Finding]:
    recipe = load(path)
    loaded.append(recipe)
    yield Finding("recipe", "ok", f"{path}: the run is {recipe.run}")


def _output(recipe: Recipe, made: list[Output]) -> Iterator[Finding]:
    output = Output(recipe.output)
    made.append(output)
    yield from output.check()


def _disk(recipe: Recipe) -> Iterator[Finding]:
    """Pictures are copied by ingest, and once more by an export that embeds them."""
    copies = 2 if recipe.export.images == "embed" else 1
    wanted = copies * inputs.size_of((*recipe.web, *recipe.human))
    return installation.disk("disk", Path(recipe.output), recipe.shards.target, wanted)
