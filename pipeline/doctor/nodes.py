"""Checks of a Ray cluster: that it answers, that stages fit, and what every node of it has and sees."""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.job_submission import JobSubmissionClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_nodes

from data_contracts.errors import StageError
from pipeline.cluster import Cluster
from pipeline.doctor import probe
from pipeline.doctor.finding import Finding
from pipeline.doctor.inputs import Files, Hosts, dns_verdict
from pipeline.doctor.installation import FULL, decisive, required, size
from pipeline.doctor.output import PATIENCE, Output
from pipeline.recipe import Recipe
from stages.neighbours import DISTRIBUTIONS

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
        StageError: it does not answer, or refuses.
    """
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)  # Ray lets them win over the address that is asked for
    try:
        client = JobSubmissionClient(address)
        client.list_jobs()
        found = list_nodes(address, timeout=int(ANSWER_SECONDS), raise_on_missing_output=False)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise StageError(
            what=f"the Ray cluster at {address} does not answer as it should",
            evidence=(str(error).strip().splitlines() or [type(error).__name__])[0],
            remedy="give the dashboard's address, such as http://head:8265; a cluster that was started with "
            "token authentication needs RAY_AUTH_MODE=token and its token here too",
        ) from error
    theirs, ours = client._server_ray_version, ray.__version__  # what Ray itself holds against its minimum
    nodes: list[Mapping[str, float]] = [dict(node.resources_total) for node in found if node.state == "ALIVE"]
    said = f"{address}: Ray {theirs}, {_sum(nodes)}"
    if theirs != ours:
        yield Finding(
            "cluster",
            "fail",
            f"{said}; Ray {ours} here",
            f"pip install 'ray[default]=={ours}' on the cluster",
        )
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
    connection = Cluster(address, 0)
    if not address:
        wanted = replace(wanted, hosts={})  # this machine was asked already
    try:
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        resources = [node["Resources"] for node in nodes.values()]
        yield Finding("ray", "ok", f"{address or 'starts here'}: Ray {ray.__version__}, {_sum(resources)}")
        if wanted.recipe:
            yield from _placement(wanted.recipe, resources)
        ray.cloudpickle.register_pickle_by_value(probe)  # type: ignore[no-untyped-call]
        look = ray.remote(probe.look)
        answers = {}
        for node, facts in nodes.items():
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            gpus = bool(facts["Resources"].get("GPU"))
            once = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            answers[node] = once.remote(_question(wanted, gpus=gpus), node)
        ray.wait([*answers.values()], num_returns=len(answers), timeout=ANSWER_SECONDS)
        for node, facts in nodes.items():
            name = f"node {facts['NodeManagerAddress']} {node[:6]}"
            try:
                answer: probe.Answer = ray.get(answers[node], timeout=0)
            except (RayError, GetTimeoutError) as error:
                said = "no answer" if isinstance(error, GetTimeoutError) else _last(error)
                yield Finding(name, "fail", said, "see to its Ray logs: ray logs cluster --node-id " + node)
                continue
            wrong = [*_judged(name, node, answer, wanted, facts["Resources"])]
            yield from wrong or [_well(name, answer, facts["Resources"], wanted)]
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


def _sum(resources: Iterable[Mapping[str, float]]) -> str:
    nodes = list(resources)
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus:g} CPUs, {gpus:g} GPUs"


def _placement(recipe: Recipe, nodes: Sequence[Mapping[str, float]]) -> Iterator[Finding]:
    """Whether some node has room for a worker of each stage."""
    misfits = [
        f"{stage} asks for {keys.cpus:g} CPUs and {keys.gpus:g} GPUs a worker"
        for stage, keys in recipe.placement.items()
        if not any(node.get("CPU", 0) >= keys.cpus and node.get("GPU", 0) >= keys.gpus for node in nodes)
    ]
    if misfits:
        largest = "; ".join(
            f"{cpus:g} CPUs and {gpus:g} GPUs"
            for cpus, gpus in sorted({(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes})[-3:]
        )
        remedy = "ask for less in placement, or add such a node"
        yield Finding("placement", "fail", f"{'; '.join(misfits)}; nodes have {largest}", remedy)
    else:
        yield Finding("placement", "ok", "every stage fits a node")


def _judged(
    name: str, node: str, answer: probe.Answer, wanted: Wanted, resources: Mapping[str, float]
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
    if gpus := int(resources.get("GPU", 0)):
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


def _well(name: str, answer: probe.Answer, resources: Mapping[str, float], wanted: Wanted) -> Finding:
    sees = ["the output"] * bool(wanted.output and wanted.output.name)
    sees += [f"{len(wanted.files)} files of sources and models"] * bool(wanted.files)
    said = f"Python {answer['python']}, capfilt {answer['versions']['capfilt']}, {_sum([resources])[8:]}"
    free = f"{size(answer['free'])} free at {answer['temp']}"
    return Finding(name, "ok", f"{said}, {free}" + (f"; sees {' and '.join(sees)}" if sees else ""))


def _last(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
