"""Checks of what a recipe names: sources, the human set, models, the plan as a whole."""

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from capfilt.data_contracts.errors import CapfiltError
from capfilt.data_contracts.identity import image_id, split_of
from capfilt.data_contracts.records import Split
from capfilt.data_contracts.rejects import Reason
from capfilt.models.checkpoint import ROLES, Role, locate_family
from capfilt.models.images.decode import Limits
from capfilt.models.images.decoder import Decoder, Refused
from capfilt.models.open import check_model
from capfilt.pipeline.doctor.finding import Finding
from capfilt.pipeline.doctor.probe import resolved
from capfilt.pipeline.execution.create_run import demand_same
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.model_keys import ParentsKeys
from capfilt.pipeline.planning.schema import Recipe, SourceKeys
from capfilt.pipeline.planning.settings import settings_of
from capfilt.stages.evaluation.calibrate import MINIMUM
from capfilt.stages.ingest.fetch.address import check
from capfilt.stages.ingest.fetch.error import FetchError
from capfilt.stages.ingest.fetch.policy import FetchPolicy
from capfilt.stages.ingest.fetch.url import Url
from capfilt.stages.ingest.list_source import KINDS, first_rows
from capfilt.stages.ingest.sources.entries import Notes
from capfilt.stages.ingest.sources.folder import files_below
from capfilt.stages.ingest.sources.recognise import format_of
from capfilt.stages.ingest.sources.source import SourceSpec

FIRST = 16  # rows of a source that are looked at
SHOWN = 5  # files of a source that every node must see
ENOUGH = 15 * MINIMUM  # human images: a tenth of them is then MINIMUM but for bad luck
Hosts = dict[str, int]
Files = dict[str, int]


def spec_of(keys: SourceKeys) -> SourceSpec:
    """As the plan has it, without the digest, for which all of it would be read."""
    spec = SourceSpec(**keys.model_dump())
    return spec if keys.format else replace(spec, format=format_of(spec))


def source(name: str, keys: SourceKeys, recipe: Recipe, hosts: Hosts, files: Files) -> Iterator[Finding]:
    """The first rows against their contract, and their images; adds hosts that are asked and files that are read.

    ``hosts`` are ports by name, ``files`` sizes by path.
    """
    spec = spec_of(keys)
    with tempfile.TemporaryDirectory(prefix="capfilt-") as scratch:
        rows = first_rows(spec, FIRST, Path(scratch))
    kind = KINDS[spec.format]
    files.update(_files(spec))
    said = f"{spec.format}, {spec.path}"
    left = Counter(str(reject.reason) for reject in rows.rejected)
    if not rows.kept.num_rows:
        example = rows.rejected[0].detail if rows.rejected else "the list is empty"
        remedy = "compare what the list names with what is there: docs/sources.md"
        yield Finding(name, "fail", f"{said}: none of the first rows can be used; {example}", remedy)
        return
    places: list[str] = rows.kept["place"].to_pylist()
    bad: list[str] = [reject.detail for reject in rows.rejected]
    if kind.reader is None:
        for place in places:
            try:
                target = Url.parse(place)
                hosts[target.host] = target.port
            except FetchError as refusal:
                left[str(refusal.reason)] += 1
                bad.append(f"{place[:200]}: {refusal.detail}")
    else:
        read = kind.reader(spec)
        limits = settings_of(Limits(), recipe.images, recipe.seed)
        verdicts = _decoded(places, read, limits)
        left.update(str(refused.reason) for refused in verdicts.values())
        bad += [f"{place}: {refused.detail}" for place, refused in verdicts.items()]
    looked_at = len(places) + len(rows.rejected)
    found = f"{said}: {looked_at - len(bad)} of the first {looked_at} rows are good"
    if not bad:
        yield Finding(name, "ok", found)
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in left.most_common())
    verdict, remedy = "warn", "such rows leave the run, each with its reason: docs/rejects.md"
    if len(bad) == looked_at:
        verdict, remedy = "fail", "see whether these are images, and whether the recipe's columns are right"
    yield Finding(name, verdict, f"{found}, {reasons}; {bad[0]}", remedy)  # type: ignore[arg-type]


def _decoded(places: Sequence[str], read: Any, limits: Limits) -> dict[str, Refused]:
    """Those whose image is none, and why."""
    decoder, refused = Decoder(limits), dict[str, Refused]()
    for place in places:
        try:
            (verdict,) = decoder([read(place)])
        except OSError as error:
            verdict = Refused(Reason.MISSING, str(error))
        if isinstance(verdict, Refused):
            refused[place] = verdict
    return refused


def _files(spec: SourceSpec) -> Files:
    """The first files of a source, and its captions."""
    path = Path(spec.path)
    found: Iterable[str] = [spec.path]
    if path.is_dir():
        found = (str(path / name) for name, _ in files_below(path))
    elif not path.exists():
        found = (name for name in glob.iglob(spec.path, recursive=True) if os.path.isfile(name))
    shown = [*islice(found, SHOWN), *([spec.captions] if spec.captions else [])]
    return {name: os.path.getsize(name) for name in shown}


def size_of(sources: Iterable[SourceKeys]) -> int:
    """Bytes of the files of sources that hold images; lists of urls hold none."""
    total = 0
    for spec in map(spec_of, sources):
        if KINDS[spec.format].fetched:
            continue
        if os.path.isdir(spec.path):
            total += sum(size for _, size in files_below(Path(spec.path)))
        else:
            total += sum(map(os.path.getsize, glob.iglob(spec.path, recursive=True)))
    return total


def calibration(recipe: Recipe) -> Iterator[Finding]:
    """Whether a threshold can be set from the human set; of a small one every image is read, to know its split."""
    threshold = recipe.select.threshold
    if not recipe.human or isinstance(threshold, float | int) or hasattr(threshold, "keep_fraction"):
        return
    places: dict[tuple[str, str], SourceSpec] = {}
    for spec in map(spec_of, recipe.human):
        for batch in KINDS[spec.format].entries(spec, Notes()):
            for place, url, problem in zip(
                *(batch[column].to_pylist() for column in ("place", "url", "problem")), strict=True
            ):
                if problem is None:
                    places[spec.name, place or url] = spec
            if len(places) >= ENOUGH:
                yield Finding("calibration", "ok", f"at least {ENOUGH} human images")
                return
    remedy = f"bring {ENOUGH} human images or more, or set select.threshold to a number"
    if any(KINDS[spec.format].fetched for spec in places.values()):
        yield Finding(
            "calibration", "warn", f"{len(places)} human images, of which some are to be fetched", remedy
        )
        return
    readers: dict[str, Any] = {spec.name: KINDS[spec.format].reader(spec) for spec in places.values()}  # type: ignore[misc]
    images = {image_id(readers[name](place)) for name, place in places}
    count = sum(split_of(image) is Split.CALIBRATE for image in images)
    found = f"{count} of {len(images)} human images are for calibrating"
    if count < MINIMUM:
        yield Finding("calibration", "fail", f"{found}, needed: {MINIMUM}", remedy)
    else:
        yield Finding("calibration", "ok", found)


def dns(hosts: Mapping[str, int], recipe: Recipe) -> Iterator[Finding]:
    """Whether the names of the first urls resolve here, to addresses that may be asked."""
    yield dns_verdict("dns", hosts, resolved([*hosts]), recipe)


def dns_verdict(
    name: str, hosts: Mapping[str, int], answers: Mapping[str, list[str] | str], recipe: Recipe
) -> Finding:
    """Of what a machine said: none that can be asked fails, some that cannot are a warning."""
    keys = recipe.fetch.model_copy(update={"takedown": None})
    policy = settings_of(FetchPolicy(), keys, recipe.seed)
    bad, refused = list[str](), 0
    for host, port in hosts.items():
        answer = answers[host]
        if isinstance(answer, str):
            bad.append(answer)
            continue
        try:
            for address in answer:
                check(address, port, policy.allowed)
        except FetchError as refusal:
            refused += 1
            bad.append(f"{host}: {refusal.reason} {refusal.detail}")
    found = f"{len(hosts) - len(bad)} of {len(hosts)} hosts of the first urls can be asked"
    if not bad:
        return Finding(name, "ok", found)
    remedy = (
        "only public addresses are asked, but for the networks in fetch.allow_private: docs/fetching.md"
        if refused == len(bad)
        else "see to the machine's name server (a caching resolver helps), or to the list"
    )
    return Finding(
        name, "fail" if len(bad) == len(hosts) else "warn", f"{found}; {'; '.join(bad[:3])}", remedy
    )


# -- models ---------------------------------------------------------------------------------------------------


def models(recipe: Recipe, files: Files) -> Iterator[Finding]:
    """Every model that the recipe names, one finding each; adds the files of those that are directories."""
    keys, dedup = recipe.models, recipe.dedup
    brought = {"filter": keys.filter.checkpoint, "captioner": keys.captioner.checkpoint}
    for role in ROLES:
        if where := brought[role]:
            yield _model(f"models.{role}", where, (role,), files)
    if isinstance(keys.init, ParentsKeys):
        for family, where in (("vit", keys.init.vision), ("bert", keys.init.text)):
            yield _parent(where, family, files)
    elif keys.init and (os.path.isdir(keys.init) or "/" in keys.init):
        roles = tuple(role for role in ROLES if keys.pretrain or not brought[role])
        yield _model("models.init", keys.init, roles, files)
    if dedup and dedup.model:
        yield _model("dedup.model", dedup.model, ("filter",), files)


def _model(name: str, where: str, roles: Sequence[Role], files: Files) -> Finding:
    try:
        facts = [check_model(where, role) for role in roles]
    except CapfiltError as error:
        return Finding.of(name, error)
    files.update(_model_files(where))
    said = f", {facts[0].model_type}, {facts[0].parameters:,} parameters" if facts else ""
    return Finding(name, "ok", f"{facts[0].where if facts else where}{said}")


def _parent(where: str, family: str, files: Files) -> Finding:
    try:
        locate_family(where, family)
    except CapfiltError as error:
        return Finding.of("models.init", error)
    files.update(_model_files(where))
    return Finding("models.init", "ok", f"{where}, {family}")


def _model_files(where: str) -> Files:
    """Those of a directory; a hub id has none that a path would name everywhere."""
    return {str(path): path.stat().st_size for path in Path(where).glob("*") if path.is_file()}


# -- the whole ------------------------------------------------------------------------------------------------


def plan(recipe: Recipe, told: Collection[str]) -> Iterator[Finding]:
    """What `capfilt plan` would say; not again the errors that were ``told`` already."""
    try:
        planned = Plan(recipe)
        ledger = Ledger(recipe.run)
        if ledger.exists:
            demand_same(planned, ledger)
    except CapfiltError as error:
        finding = Finding.of("plan", error)
        if error.what not in told:
            yield finding
        return
    done = sum(ledger.totals(name) is not None for name in planned.nodes) if ledger.exists else 0
    begun = f"carries on: {done} of {len(planned.nodes)} stages are done" if ledger.exists else "a new run"
    yield Finding("plan", "ok", f"{begun}, {recipe.run}")
