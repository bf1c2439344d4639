"""What was sent to a cluster: a small file in the run, by which the job, and whoever asks later, know it.

The job that does not find its own there does not see the storage that the submitting machine sees.
"""

import os

from pydantic import BaseModel, ConfigDict

from capfilt.data_contracts.errors import StageError
from capfilt.pipeline.cluster import environment
from capfilt.pipeline.ledger.lease import SUBMISSION
from capfilt.pipeline.ledger.versions import versions
from capfilt.pipeline.storage import Storage, storage_at

FOLDER = "_jobs"
ANY_VERSIONS = "CAPFILT_ANY_VERSIONS"


class Submission(BaseModel):
    """``address`` is the cluster's dashboard, ``versions`` are the submitting machine's, times are UTC."""

    model_config = ConfigDict(frozen=True)

    job: str
    address: str
    nonce: str
    host: str
    submitted: str
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """Where it is kept; the last one is the last by name."""
        return f"{FOLDER}/{self.submitted.replace(':', '')}-{self.nonce}.json"


def write(storage: Storage, sent: Submission) -> None:
    storage.replace(sent.name, sent.model_dump_json(indent=2).encode())


def read(storage: Storage) -> Submission | None:
    """The run's last submission; ``None`` when there was none."""
    names = sorted(name for name, _ in storage.entries(FOLDER) if name.endswith(".json"))
    return Submission.model_validate_json(storage.read(f"{FOLDER}/{names[-1]}")) if names else None


def demand_seen(run: str) -> None:
    """In a job, before it begins: it sees what the submitting machine wrote, and has its libraries.

    Raises:
        StageError: it does not; says what differs.
    """
    nonce = os.environ.get(SUBMISSION)
    if nonce is None:
        return
    storage = storage_at(run)
    name = next((name for name, _ in storage.entries(FOLDER) if name.endswith(f"-{nonce}.json")), None)
    if name is None:
        raise StageError(
            what=f"the cluster does not see the {run} that the submitting machine sees",
            evidence=f"what that one wrote to {FOLDER} there is not to be found",
            remedy=environment.SHARED,
        )
    if not os.environ.get(ANY_VERSIONS):
        sent = Submission.model_validate_json(storage.read(f"{FOLDER}/{name}"))
        environment.demand_versions(sent.versions, versions(), "the cluster")
