"""Checks of a Ray cluster: that it answers, that stages fit, and what every node of it has and sees."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from capfilt.data_contracts.errors import CapfiltError
from capfilt.data_contracts.units import size
from capfilt.pipeline.cluster.capacity import Capacity, ClusterNode, alive
from capfilt.pipeline.cluster.connection import Connection
from capfilt.pipeline.cluster.jobs import Jobs
from capfilt.pipeline.doctor import probe
from capfilt.pipeline.doctor.finding import Finding
from capfilt.pipeline.doctor.inputs import Files, Hosts, dns_verdict
from capfilt.pipeline.doctor.installation import FULL, decisive, required
from capfilt.pipeline.doctor.output import PATIENCE, Output
from capfilt.pipeline.execution.schedule import demands
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.schema import Recipe
from capfilt.stages.dedup.neighbours import DISTRIBUTIONS

ANSWER_SECONDS = 90.0


@dataclass(frozen=True)
class Wanted:
    """What nodes are asked about: the recipe, its output when this machine could write there, hosts and files."""

    recipe: Recipe | None
    output: Output | None
    hosts: Hosts
    files: Files


def dashboard(address: str, recipe: Recipe | None) -> Iterator[Finding]:
    """A cluster by its dashboard, as `capfilt submit` sees it.

    Raises:
        StageError: it does not answer, or refuses; or anybody may run code on it.
    """
    jobs = Jobs(address)
    nodes, theirs, ours = jobs.nodes(), jobs.ray_version(), ray.__version__
    said = f"{address}: Ray {theirs}, {_sum(nodes.values())}"
    if theirs != ours:
        remedy = f"pip install 'ray[default]=={ours}' on the cluster"
        yield Finding("cluster", "fail", f"{said}; Ray {ours} here", remedy)
    else:
        yield Finding("cluster", "ok", said)
    if recipe:
        yield from _placement(recipe, nodes)
    yield Finding(
        "nodes",
        "warn",
        "a dashboard does not show what the nodes see of storage and sources",
        "on a machine of the cluster: capfilt doctor RECIPE --address auto",
    )


def cluster(address: str | None, wanted: Wanted) -> Iterator[Finding]:
    """A cluster that this machine belongs to, or one that is started here as `capfilt run` would start it.

    Raises:
        StageError: it does not answer, or Ray does not start.
    """
    connection = Connection(address)
    if not address:
        wanted = replace(wanted, hosts={})  # this machine was asked already
    try:
        nodes = alive()
        yield Finding(
            "ray", "ok", f"{address or 'starts here'}: Ray {ray.__version__}, {_sum(nodes.values())}"
        )
        if wanted.recipe:
            yield from _placement(wanted.recipe, nodes)
        ray.cloudpickle.register_pickle_by_value(probe)  # type: ignore[no-untyped-call]
        look = ray.remote(probe.look)
        answers = {}
        for node, facts in nodes.items():
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            once = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            answers[node] = once.remote(_question(wanted, gpus=bool(facts.has.get("GPU"))), node)
        ray.wait([*answers.values()], num_returns=len(answers), timeout=ANSWER_SECONDS)
        for node, facts in nodes.items():
            name = f"node {facts.address} {node[:6]}"
            try:
                answer: probe.Answer = ray.get(answers[node], timeout=0)
            except (RayError, GetTimeoutError) as error:
                said = "no answer" if isinstance(error, GetTimeoutError) else _last(error)
                yield Finding(name, "fail", said, "see to its Ray logs: ray logs cluster --node-id " + node)
                continue
            wrong = [*_judged(name, node, answer, wanted, facts)]
            yield from wrong or [_well(name, answer, facts, wanted)]
    finally:
        connection.close()


def _question(wanted: Wanted, *, gpus: bool) -> probe.Question:
    output = wanted.output if wanted.output and wanted.output.name else None
    return probe.Question(
        distributions=[*required(), "capfilt", *DISTRIBUTIONS],
        files=wanted.files,
        output=output.where if output else "",
        name=output.name if output else "",
        token=output.token if output else "",
        patience=PATIENCE,
        hosts=[*wanted.hosts],
        gpus=gpus,
    )


def _sum(nodes: Iterable[ClusterNode]) -> str:
    every = list(nodes)
    return f"{len(every)} node{'s' * (len(every) != 1)}, {_units(every)}"


def _units(nodes: Iterable[ClusterNode]) -> str:
    """The CPUs and GPUs of all of them."""
    every = list(nodes)
    cpus, gpus = (sum(node.has.get(kind, 0) for node in every) for kind in ("CPU", "GPU"))
    return f"{cpus:g} CPUs, {gpus:g} GPUs"


def _placement(recipe: Recipe, nodes: Mapping[str, ClusterNode]) -> Iterator[Finding]:
    """Whether there is room for the workers of every stage, as a run asks before it begins."""
    capacity = Capacity(nodes)
    try:
        plan = Plan(recipe)
    except CapfiltError:
        return  # what is wrong with it was said already
    lacking = capacity.lacking(demands(plan, plan, capacity.most("GPU")))
    yield Finding.of("placement", lacking) if lacking else Finding("placement", "ok", "every stage fits")


def _judged(
    name: str, node: str, answer: probe.Answer, wanted: Wanted, facts: ClusterNode
) -> Iterator[Finding]:
    """What is wrong with a node."""

    def fail(found: str, remedy: str) -> Finding:
        return Finding(name, "fail", found, remedy)

    ours, theirs = platform.python_version(), answer["python"]
    if ours.split(".")[:2] != theirs.split(".")[:2]:
        yield fail(f"Python {theirs}; {ours} here", "give all machines one Python, and one environment")
    if not answer["capfilt"]:
        yield fail("capfilt is not installed there", "pip install -c constraints.txt capfilt on every node")
        return
    yield from _libraries(name, answer)
    if answer["code"] != probe.code_of()[1]:
        where = f"{answer['capfilt']} there, {probe.code_of()[0]} here"
        yield fail(f"its capfilt has other code: {where}", "install the same capfilt on every node")
    both = [one for one in DISTRIBUTIONS if one in answer["versions"]]
    if len(both) > 1:
        yield fail(
            f"{' and '.join(both)} are both installed", f"pip uninstall {' '.join(both)}, then install one"
        )
    if wanted.output and wanted.output.name:
        shared = (
            "mount one folder at the same path on every node, or give a store: output: s3://bucket/prefix"
        )
        if answer["storage"]:
            yield fail(f"the worker cannot use {wanted.output.where}: {answer['storage']}", shared)
        elif not wanted.output.answered(node):
            yield fail(f"what the worker writes to {wanted.output.where} is not seen here", shared)
    if answer["missing"]:
        first = answer["missing"][0]
        yield fail(
            f"{len(answer['missing'])} of {len(wanted.files)} files are missing or others there, such as {first}",
            "sources and models must be at the same path on every node: a shared folder, or a hub id for a model",
        )
    if wanted.hosts and wanted.recipe:
        finding = dns_verdict(name, wanted.hosts, answer["hosts"], wanted.recipe)
        if finding.verdict != "ok":
            yield finding
    if answer["free"] < (1 - FULL) * answer["total"]:
        yield Finding(
            name,
            "warn",
            f"{size(answer['free'])} free of {size(answer['total'])} at {answer['temp']}",
            "make room: Ray takes no more objects on a disk that is 95% full",
        )
    if gpus := int(facts.has.get("GPU", 0)):
        seen = len(answer["gpus"] or ())
        if seen < gpus:
            remedy = "install a torch for its driver: https://pytorch.org"
            yield fail(f"Ray has {gpus} GPUs there, torch sees {seen}: {answer['torch']}", remedy)


def _libraries(name: str, answer: probe.Answer) -> Iterator[Finding]:
    """Other versions: those that fingerprints and records name fail, others may do."""
    ours = probe.versions_of([*required(), "capfilt"])
    differing = {one: answer["versions"].get(one, "none") for one in ours}
    other = {one: theirs for one, theirs in differing.items() if theirs != ours[one]}
    remedy = "pip install -c constraints.txt capfilt on every node"
    for verdict, some in (("fail", other.keys() & decisive()), ("warn", other.keys() - decisive())):
        if some:
            said = ", ".join(f"{one} {other[one]} ({ours[one]} here)" for one in sorted(some))
            yield Finding(name, verdict, said, remedy)  # type: ignore[arg-type]


def _well(name: str, answer: probe.Answer, facts: ClusterNode, wanted: Wanted) -> Finding:
    sees = ["the output"] * bool(wanted.output and wanted.output.name)
    sees += [f"{len(wanted.files)} files of sources and models"] * bool(wanted.files)
    said = f"Python {answer['python']}, capfilt {answer['versions']['capfilt']}, {_units([facts])}"
    free = f"{size(answer['free'])} free at {answer['temp']}"
    return Finding(name, "ok", f"{said}, {free}" + (f"; sees {' and '.join(sees)}" if sees else ""))


def _last(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
