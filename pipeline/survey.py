"""What of a plan is done, what is to run, and why: from storage alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from data_contracts.errors import DamageError
from pipeline.ledger import Ledger, Part
from pipeline.plan import Node, Plan
from stages.list_source import ListSource
from stages.stage import GlobalStage


class State(StrEnum):
    DONE = "done"
    PARENT = "parent's"
    TO_RUN = "to run"
    WAITING = "waiting"


@dataclass(frozen=True)
class Standing:
    """How one stage stands. ``missing`` are its shards to run; empty for a global stage, which runs whole.

    ``superseded`` are committed parts whose input is no longer what they read, by shard.
    """

    state: State
    why: str
    expected: int | None = None
    committed: Mapping[str, Part] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    superseded: Mapping[str, Part] = field(default_factory=dict)
    stale: str = ""


def sharded(node: Node) -> bool:
    """Whether a stage's parts belong to shards (listing and all shard stages), not to the run as a whole."""
    return not isinstance(node.stage, GlobalStage) or isinstance(node.stage, ListSource)


def survey(plan: Plan, ledger: Ledger) -> dict[str, Standing]:
    """Every stage's standing, in the plan's order.

    Raises:
        DamageError: a committed part is gone or has another size, or `verify` found it damaged.
    """
    standings: dict[str, Standing] = {}
    for node in plan:
        waiting = [need for need in node.needs if standings[need].state in (State.TO_RUN, State.WAITING)]
        committed = ledger.parts(node.name)
        for part in committed.values():
            _demand_whole(ledger, node.name, part)
        standings[node.name] = _standing(plan, ledger, node, committed, waiting, standings)
    return standings


def _standing(
    plan: Plan,
    ledger: Ledger,
    node: Node,
    committed: Mapping[str, Part],
    waiting: list[str],
    standings: Mapping[str, Standing],
) -> Standing:
    totals = ledger.totals(node.name)
    if totals is not None and totals.refers_to:
        return Standing(State.PARENT, f"same fingerprint as in {totals.refers_to}", len(committed), committed)
    if isinstance(node.stage, GlobalStage):
        if totals is None:
            if waiting:
                return Standing(State.WAITING, f"after {', '.join(waiting)}", committed=committed)
            return Standing(State.TO_RUN, "has not finished", committed=committed)
        lost = set(totals.shards) - committed.keys()
        if lost:
            return Standing(State.TO_RUN, f"{len(lost)} parts are damaged or gone", committed=committed)
        stale = _changed(node, next(iter(committed.values()), None), standings, every=True)
        return Standing(State.DONE, "complete", len(committed), committed, stale=stale)
    unlisted = [need for need in waiting if sharded(plan.nodes[need]) and standings[need].expected is None]
    if unlisted:
        return Standing(State.WAITING, f"after {', '.join(unlisted)}", committed=committed)
    expected = sorted(
        {
            shard
            for name in node.upstream
            if sharded(plan.nodes[name])
            for shard in (*standings[name].committed, *standings[name].missing)
        }
    )
    superseded = {
        shard: part for shard, part in committed.items() if _changed(node, part, standings, every=False)
    }
    sound = {shard: part for shard, part in committed.items() if shard not in superseded}
    missing = tuple(shard for shard in expected if shard not in sound)
    if missing or totals is None:
        why = f"{len(missing)} of {len(expected)} shards to do"
        if superseded:
            why += f", {len(superseded)} because their input was redone"
        state = State.WAITING if waiting else State.TO_RUN
        return Standing(state, why, len(expected), sound, missing, superseded)
    return Standing(State.DONE, "complete", len(expected), sound)


def _changed(node: Node, part: Part | None, standings: Mapping[str, Standing], *, every: bool) -> str:
    """The first input that a part read and that stands no more; for a global stage also one that is new."""
    if part is None or part.record is None:
        return ""
    read = {(given.stage, given.name): given.sha256 for given in part.record.inputs}
    for name in node.upstream:
        standing = standings[name]
        if standing.state in (State.TO_RUN, State.WAITING) and not every:
            continue
        now = {(name, found.name): found.sha256 for found in standing.committed.values()}
        before = {key: digest for key, digest in read.items() if key[0] == name}
        gone = before.items() - now.items()
        if gone or (every and now.keys() - before.keys()):
            return f"{name} has parts that it did not see"
    return ""


def _demand_whole(ledger: Ledger, stage: str, part: Part) -> None:
    path = ledger.folder(stage) / part.name
    size = path.stat().st_size if path.exists() else -1
    evidence = ledger.suspicion(stage, part.name)
    if size != part.size:
        evidence = f"{max(size, 0)} bytes instead of {part.size}"
    if evidence:
        raise DamageError(
            what=f"{path} is damaged",
            evidence=evidence,
            remedy=f"capfilt resume {ledger.home(stage).run} sets it aside and redoes its shard",
            stage=stage,
            part=part.name,
        )
