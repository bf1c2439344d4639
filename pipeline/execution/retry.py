"""Fetch again what could not be fetched: rejected rows become new shards of the same run.

What is committed stays as it is, rejects too. A row's second chance is a row in a new shard of the listing, and
only that shard runs through the later stages. The last word on a row is that of its newest shard.
"""

import re
import time
from collections import Counter
from collections.abc import Collection, Iterator

import pyarrow as pa

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.records import Occurrence
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.execution.create_run import demand_same
from capfilt.pipeline.execution.part_writer import PartWriter
from capfilt.pipeline.execution.task import Task
from capfilt.pipeline.ledger.commit_index import CommitIndex
from capfilt.pipeline.ledger.lease import Lease
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.reports.query import batches, files
from capfilt.stages.ingest.list_source import cut
from capfilt.stages.stage import Rows

# What may be otherwise another day.
PASSING = frozenset(
    [
        *(Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.TOO_SLOW, Reason.TRUNCATED),
        *(Reason.DEADLINE, Reason.FETCH_DIED),
        *(Reason.HTTP_429, Reason.HTTP_500, Reason.HTTP_502, Reason.HTTP_503, Reason.HTTP_504),
    ]
)
_SHARD = re.compile(r"r(\d{3})\d{7}")
# The newest reject of each row that was not kept since and is not waiting in a shard of an earlier retry.
_FAILED = """
, failed AS (
    SELECT row_id, arg_max(reason, filename) AS reason FROM files WHERE unit = 'image' GROUP BY row_id
)
SELECT reason, listed.* EXCLUDE (filename) FROM listed JOIN failed USING (row_id)
WHERE list_contains(?, reason)
  AND row_id NOT IN (SELECT row_id FROM kept)
  AND row_id NOT IN (SELECT row_id FROM listed WHERE list_contains(?, filename))
QUALIFY row_number() OVER (PARTITION BY row_id) = 1
ORDER BY row_id
"""


def again(plan: Plan, ledger: Ledger, reasons: Collection[Reason]) -> Counter[Reason]:
    """List the rejected rows of ``ingest`` with these reasons in new shards; how many of each there are.

    Raises:
        RunChangedError: the recipe's sources are others now.
        UsageError: the run is a fork that refers to its parent's listing.
        BusyError: another runner is at work in the run.
    """
    demand_same(plan, ledger)
    home = ledger.home("list_web")
    if home.url != ledger.url:
        raise UsageError(
            what="a fork does not fetch: its listing is its parent's",
            evidence=f"list_web is that of {home.url}",
            remedy=f"capfilt retry-failed {home.url}, then resume the fork: it has the new shards, too",
        )
    found: Counter[Reason] = Counter()
    with Lease(ledger.storage):
        listed = ledger.index("list_web")
        rounds = (int(match[1]) for shard in listed.shards if (match := _SHARD.fullmatch(shard)))
        number = 1 + max(rounds, default=0)
        tables = _failed(ledger, listed, reasons, found)
        for count, table in enumerate(cut(tables, plan.recipe.shards.rows, by_rows=True)):
            _commit(plan, ledger, f"r{number:03d}{count:07d}", table.drop(["reason", "group"]))
        node = plan.nodes["list_web"]
        ledger.close(ledger.index("list_web").totals("list_web", node.fingerprint))
    return found


def _failed(
    ledger: Ledger, listed: CommitIndex, reasons: Collection[Reason], found: Counter[Reason]
) -> Iterator[pa.Table]:
    """The rows, out of core, in the order of their ids; ``found`` counts them."""
    held = listed.held()
    missing = ledger.index("ingest").missing(listed.shards)
    waiting = [f"{ledger.url}/list_web/{held[shard][0]}" for shard in missing]
    left = files(ledger, "ingest", rejects=True)
    tables = {"kept": files(ledger, "ingest"), "listed": files(ledger, "list_web")}
    for batch in batches(_FAILED, left, [*map(str, reasons)], waiting, **tables):
        found.update(Reason(reason) for reason in batch["reason"].to_pylist())
        yield pa.table(batch).append_column("group", pa.nulls(len(batch)))


def _commit(plan: Plan, ledger: Ledger, shard: str, rows: pa.Table) -> None:
    node = plan.nodes["list_web"]
    task = Task(
        *(ledger.url, "list_web", node.stage, node.fingerprint, shard), upstream=(), models={}, digests={}
    )
    with ledger.storage.scratch() as scratch:
        writer = PartWriter(ledger, task, scratch, time.monotonic())
        kept = rows.cast(Contract(Occurrence).schema)
        writer.write(Rows(kept, notes=(f"{len(kept):,} rows are fetched again",)))
        writer.commit(len(kept), ())
