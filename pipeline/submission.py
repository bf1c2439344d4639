"""What was sent to a cluster: a small file in the run, by which the job, and whoever asks later, know it.

The job that finds another one there, or none, does not see the storage that the submitting machine sees.
"""

import os

from pydantic import BaseModel, ConfigDict, ValidationError

from data_contracts.errors import StageError
from pipeline import machine
from pipeline.storage import Storage, storage_at

NAME = "_job.json"
NONCE, ANY_VERSIONS = "CAPFILT_SUBMISSION", "CAPFILT_ANY_VERSIONS"


class Submission(BaseModel):
    """The last one of a run. ``address`` is the cluster's dashboard, ``versions`` are the submitting machine's."""

    model_config = ConfigDict(frozen=True)

    job: str
    address: str
    nonce: str
    host: str
    submitted: str
    versions: dict[str, str]


def read(storage: Storage) -> Submission | None:
    """The run's last submission; ``None`` when there was none."""
    try:
        return Submission.model_validate_json(storage.read(NAME))
    except (FileNotFoundError, ValidationError):
        return None


def demand_seen(run: str) -> None:
    """In a job, before it begins: it sees what the submitting machine wrote, and has its libraries.

    Raises:
        StageError: it does not; says what differs.
    """
    nonce = os.environ.get(NONCE)
    if nonce is None:
        return
    found = read(storage_at(run))
    if found is None or found.nonce != nonce:
        raise StageError(
            what=f"the cluster does not see the {run} that the submitting machine sees",
            evidence=f"{NAME} there "
            + ("is not to be found" if found is None else f"is of the job {found.job}"),
            remedy=machine.SHARED,
        )
    if not os.environ.get(ANY_VERSIONS):
        machine.demand_versions(found.versions, machine.versions(), "the cluster")
