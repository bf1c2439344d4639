"""What of a plan is done, what is to run, and why: from storage alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.data_contracts.ledger import StageTotals
from capfilt.pipeline.ledger.commit_index import CommitIndex, models_text
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.graph import Graph, Node
from capfilt.stages.stage import GlobalStage

AT_ONCE = 50_000  # parts that are compared at a time: what they read is text, and long


class State(StrEnum):
    DONE = "done"
    PARENT = "parent's"
    TO_RUN = "to run"
    WAITING = "waiting"


@dataclass(frozen=True)
class StageStatus:
    """How one stage stands.

    ``shards`` are those that it has or will have, once they are known. ``index`` has the committed parts that
    can be used; ``missing`` are the shards to run (empty for a global stage, which runs whole). ``superseded``
    are committed parts whose input is no longer what they read, ``damaged`` those that cannot be used, by name
    with the reason.
    """

    state: State
    why: str
    shards: tuple[str, ...] | None = None
    index: CommitIndex = field(default_factory=CommitIndex, repr=False)
    missing: tuple[str, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    stale: str = ""

    @property
    def damaged(self) -> Mapping[str, str]:
        return self.index.damaged

    @property
    def expected(self) -> int | None:
        return None if self.shards is None else len(self.shards)

    @property
    def ended(self) -> bool:
        return self.state in (State.DONE, State.PARENT)


def sharded(node: Node) -> bool:
    """Whether a stage's parts belong to shards (listing and all shard stages), not to the run as a whole."""
    return not isinstance(node.stage, GlobalStage) or node.stage.lists


def stage_statuses(plan: Graph, ledger: Ledger) -> dict[str, StageStatus]:
    """Every stage's standing, in the plan's order. Nothing is raised for damage: it is in the standings."""
    statuses: dict[str, StageStatus] = {}
    for node in plan:
        totals, index = ledger.look(node.name)
        waiting = [need for need in node.needs if not statuses[need].ended]
        if totals is not None and totals.refers_to and not index.damaged:
            why = f"same fingerprint as in {totals.refers_to}"
            statuses[node.name] = StageStatus(State.PARENT, why, tuple(index.shards), index)
        elif isinstance(node.stage, GlobalStage):
            statuses[node.name] = _whole(plan, node, totals, index, waiting, statuses)
        else:
            statuses[node.name] = _by_shard(plan, node, totals, index, waiting, statuses)
    return statuses


def _whole(
    plan: Graph,
    node: Node,
    totals: StageTotals | None,
    index: CommitIndex,
    waiting: Sequence[str],
    statuses: Mapping[str, StageStatus],
) -> StageStatus:
    """A global stage: it stands as long as its own parts do; what it read may have changed since."""
    shards = tuple(index.shards)
    lost = set(totals.shards) - set(shards) if totals else set()
    if totals is None or lost or index.damaged:
        why = (
            f"{len(lost | index.damaged.keys())} parts are damaged or gone" if totals else "has not finished"
        )
        if waiting:
            return StageStatus(State.WAITING, f"after {', '.join(waiting)}", None, index)
        return StageStatus(State.TO_RUN, why, None, index)
    stale = ""
    if len(index):
        read = index.table["inputs"][0].as_py()
        for name in node.upstream:
            now = set(statuses[name].index.text(name).to_pylist())
            before = {f"{one};" for one in read.split(";") if one.startswith(f"{name}/")}
            if now != before and statuses[name].ended:
                stale = f"{name} has parts that it did not see"
                break
    return StageStatus(State.DONE, "complete", shards, index, stale=stale)


def _by_shard(
    plan: Graph,
    node: Node,
    totals: StageTotals | None,
    index: CommitIndex,
    waiting: Sequence[str],
    statuses: Mapping[str, StageStatus],
) -> StageStatus:
    """A shard stage: a part stands if everything that it read still does."""
    above = [name for name in node.upstream if sharded(plan.nodes[name])]
    if unlisted := [name for name in above if statuses[name].shards is None]:
        first = next((need for need in waiting if need in unlisted), unlisted[0])
        return StageStatus(State.WAITING, f"after {first}", None, index)
    shards = _union([statuses[name].shards or () for name in above])
    superseded = _superseded(plan, node, index, statuses)
    sound = index.without(superseded) if superseded else index
    missing = sound.missing(shards)
    if not missing and totals is not None:
        return StageStatus(State.DONE, "complete", shards, sound)
    why = f"{len(missing)} of {len(shards)} shards to do"
    if superseded:
        why += f", {len(superseded)} because their input was redone"
    if index.damaged:
        why += f", {len(index.damaged)} because their part is damaged"
    state = State.WAITING if waiting else State.TO_RUN
    return StageStatus(state, why, shards, sound, missing, superseded)


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """All of these shards, sorted; the same object where they are the same, as in a chain of stages."""
    first = lists[0]
    if all(other == first for other in lists):
        return first
    return tuple(sorted(set().union(*lists)))


def _superseded(
    plan: Graph, node: Node, index: CommitIndex, statuses: Mapping[str, StageStatus]
) -> dict[str, str]:
    """The parts, by shard, that read something which stands no more, or that another recipe made."""
    gone: dict[str, str] = {}
    expected = [_expected(plan.nodes[name], statuses[name]) for name in sorted(node.upstream)]
    trained = {stage: model_digest(statuses[stage].index) for stage in node.stage.trained}
    for start in range(0, len(index), AT_ONCE):
        table = index.table.slice(start, AT_ONCE).combine_chunks()
        own = table["shard"].combine_chunks()
        read = [inputs_of(own) for inputs_of in expected]
        text = pc.binary_join_element_wise(*read, pa.scalar("", pa.large_string()))
        sound = pc.equal(text, table["inputs"].combine_chunks())
        ours = pc.equal(table["fingerprint"].combine_chunks().cast(pa.string()), node.fingerprint)
        sound = pc.and_(sound, ours)  # or the part is another run's: of a fork's, say, which read the same
        for stage, digest in trained.items():
            entry = models_text({stage: digest})[1:-1]
            same = pc.match_substring(table["models"].combine_chunks().cast(pa.string()), entry)
            sound = pc.and_(sound, same)
        bad = table.filter(pc.invert(pc.fill_null(sound, False)))
        gone |= dict(zip(bad["shard"].to_pylist(), bad["name"].to_pylist(), strict=True))
    return gone


def _expected(above: Node, status: StageStatus) -> Callable[[pa.Array], pa.Array]:
    """For shards of the stage below, the text of what they have to have read of the one above."""
    if not sharded(above):
        text = status.index.text(above.name)
        whole = pa.scalar("".join(sorted(text.to_pylist())) if len(text) else None, pa.large_string())
        return lambda own: pa.repeat(whole, len(own))
    listed = status.index.table["shard"].combine_chunks()
    shards = pa.array(status.shards or (), pa.string())

    def of(own: pa.Array) -> pa.Array:
        text = status.index.text(above.name, pc.index_in(own, listed))
        return pc.if_else(pc.is_in(own, shards), text, pa.scalar("", pa.large_string()))

    return of


def model_digest(index: CommitIndex) -> str:
    """The digest of the model that a stage made; empty when it has not."""
    record = index.first_record()
    return str(record.facts.get("model", "")) if record else ""
