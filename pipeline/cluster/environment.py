"""What a machine must share with the one that drives a run, or sent it: the libraries, and sight of its storage."""

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from capfilt.data_contracts.errors import StageError, StorageError
from capfilt.pipeline.ledger import submission
from capfilt.pipeline.ledger.lease import SUBMISSION
from capfilt.pipeline.ledger.ledger import RUN
from capfilt.pipeline.ledger.versions import versions
from capfilt.pipeline.storage import storage_at

ANY_VERSIONS = "CAPFILT_ANY_VERSIONS"
SHARED = (
    "put `output` where all nodes see it: a shared folder, or a bucket (s3://, gs://, az://) whose keys every node "
    "has; `capfilt doctor RECIPE --address` tells which nodes do"
)


@dataclass(frozen=True)
class Machine:
    """One as a process on it finds it. ``record`` is the sha256 of the run's record that it reads; ``blind`` says why
    it cannot."""

    host: str
    versions: Mapping[str, str]
    record: str = ""
    blind: str = ""


def this(run: str) -> Machine:
    """This one, looking at a run."""
    try:
        record = hashlib.sha256(storage_at(run).read(RUN)).hexdigest()
    except (OSError, StorageError) as error:
        return Machine(socket.gethostname(), versions(), blind=str(error).splitlines()[0])
    return Machine(socket.gethostname(), versions(), record)


def demand_alike(driver: Machine, worker: Machine, run: str) -> None:
    """Raise :class:`StageError` unless the worker's machine sees the driver's run and has the same libraries."""
    if worker.record != driver.record:
        raise StageError(
            what=f"the machine {worker.host} does not see the run {run}",
            evidence=worker.blind or "what lies there on that machine is another run",
            remedy=SHARED,
        )
    demand_versions(driver.versions, worker.versions, f"the machine {worker.host}")


def demand_versions(ours: Mapping[str, str], theirs: Mapping[str, str], who: str) -> None:
    """Raise :class:`StageError` when libraries differ; of Python only 3.x counts."""
    differing = [
        f"{name} {theirs.get(name, 'absent')} instead of {version}"
        for name, version in ours.items()
        if _counts(name, version) != _counts(name, theirs.get(name, "absent"))
    ]
    if differing:
        raise StageError(
            what=f"{who} has other versions of what decides results",
            evidence="; ".join(differing),
            remedy="install the versions of constraints.txt everywhere, or use the same image",
        )


def demand_submission(run: str) -> None:
    """In a job, before it begins: it sees what the submitting machine wrote, and has its libraries.

    Raises:
        StageError: it does not; says what differs.
    """
    nonce = os.environ.get(SUBMISSION)
    if nonce is None:
        return
    sent = submission.find(storage_at(run), nonce)
    if sent is None:
        raise StageError(
            what=f"the cluster does not see the {run} that the submitting machine sees",
            evidence=f"what that one wrote to {submission.FOLDER} there is not to be found",
            remedy=SHARED,
        )
    if not os.environ.get(ANY_VERSIONS):
        demand_versions(sent.versions, versions(), "the cluster")


def _counts(name: str, version: str) -> str:
    version = version.partition("+")[0]  # torch says which build it is: 2.13.0+cpu
    return version.rpartition(".")[0] if name == "python" else version
