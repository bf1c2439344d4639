"""Create a run, or find that the one on disk is this plan's."""

import sys
from datetime import UTC, datetime

from capfilt.data_contracts.errors import RunChangedError
from capfilt.data_contracts.fingerprint import first_difference
from capfilt.data_contracts.ledger import RunRecord
from capfilt.pipeline.ledger import lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.ledger.versions import versions
from capfilt.pipeline.planning.graph import Graph


def create_run(plan: Graph, ledger: Ledger, parent: Ledger | None = None) -> None:
    """Create the run, or see that the run on disk is this plan's.

    With ``parent`` (a fork) every complete stage of it whose fingerprint holds is referred to, not copied.

    Raises:
        RunChangedError: the run was made by another recipe; names the first field that differs.
    """
    record = RunRecord(
        name=plan.recipe.name,
        recipe=plan.recipe.plain(),
        stages={node.name: dict(node.identity) for node in plan},
        fingerprints={node.name: node.fingerprint for node in plan},
        parent=ledger.storage.relative(parent.storage) if parent else None,
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(sys.argv),
    )
    if not ledger.exists:
        # Before the record, which makes it a run: a fork that is killed here is made anew, with all its references.
        _refer(plan, ledger, parent)
        if ledger.create(record):
            return
    if ledger.record().fingerprints == record.fingerprints:
        return
    if not _blank(ledger):
        demand_same(plan, ledger)
    ledger.correct(record)


def _blank(ledger: Ledger) -> bool:
    """Whether a run has nothing in it yet and nobody is at work: then its recipe may still be corrected."""
    if lease.read(ledger.storage) is not None:
        return False
    stages = ledger.record().fingerprints
    return not any(ledger.totals(stage) or len(ledger.index(stage)) for stage in stages)


def _refer(plan: Graph, ledger: Ledger, parent: Ledger | None) -> None:
    """Refer to the parent's complete stages whose fingerprints hold, and to nothing else."""
    fingerprints = parent.record().fingerprints if parent else {}
    for node in plan:
        totals = parent.totals(node.name) if parent else None
        if parent and totals and fingerprints.get(node.name) == node.fingerprint:
            place = ledger.storage.relative(parent.home(node.name).storage)
            ledger.close(totals.model_copy(update={"refers_to": place}))
        elif (
            stray := ledger.totals(node.name)
        ) and stray.refers_to:  # of a fork that did not come into being
            ledger.reopen(node.name)


def demand_same(plan: Graph, ledger: Ledger) -> None:
    """Raise :class:`RunChangedError` unless the run on disk was made by this very plan."""
    found = ledger.record()
    changed = [name for name in plan.nodes if found.fingerprints.get(name) != plan.nodes[name].fingerprint]
    if not changed and not found.fingerprints.keys() - plan.nodes.keys():
        return
    now = {node.name: dict(node.identity) for node in plan}
    differing = next((name for name in now if found.stages.get(name) != now[name]), None)
    where, old, new = ("stages", sorted(found.stages), sorted(now))
    if differing is not None and (
        difference := first_difference(found.stages.get(differing), now[differing], differing)
    ):
        where, old, new = difference
    done = {name: totals for name in changed if (totals := ledger.totals(name))}
    work = (
        f", of which {len(done)} had ended ({sum(t.seconds for t in done.values()):.0f} s of work)"
        if done
        else ""
    )
    raise RunChangedError(
        what=f"{ledger.url} was made by another recipe: {where} differs",
        evidence=f"the run has {old!r}, this recipe {new!r}",
        remedy=f"a run never changes: add --fork NEWNAME, which redoes {', '.join(changed) or 'nothing'} "
        f"({len(changed)} of {len(plan.nodes)} stages{work})",
    )
