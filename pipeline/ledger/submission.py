"""What was sent to a cluster: a small file in the run, by which the job, and whoever asks later, know it.

A job that fails leaves its error beside it. One that does not find its own submission there does not see the storage
that the submitting machine sees.
"""

import json
import os
from contextlib import suppress

from pydantic import BaseModel, ConfigDict

from capfilt.data_contracts.errors import CapfiltError, of_plain
from capfilt.pipeline.ledger.lease import SUBMISSION
from capfilt.pipeline.storage import Storage, patience, storage_at

FOLDER = "_jobs"
ERRORS = f"{FOLDER}/errors"
LAST_SECONDS = 10.0
RUN = "CAPFILT_SUBMITTED_RUN"  # where the run lies, in a job's environment


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


def find(storage: Storage, nonce: str) -> Submission | None:
    """The submission with this nonce; ``None`` where this storage has none."""
    name = next((name for name, _ in storage.entries(FOLDER) if name.endswith(f"-{nonce}.json")), None)
    return Submission.model_validate_json(storage.read(f"{FOLDER}/{name}")) if name else None


def leave_error(error: CapfiltError) -> None:
    """In a job that ends with an error, leave that in the run for whoever submitted it; elsewhere do nothing."""
    nonce, run = os.environ.get(SUBMISSION), os.environ.get(RUN)
    if nonce and run:
        # The storage may be what fails; the job prints the error that it ends with as well.
        with suppress(CapfiltError), patience.at_most(LAST_SECONDS):
            storage = storage_at(run)
            if find(storage, nonce):
                storage.replace(f"{ERRORS}/{nonce}.json", json.dumps(error.plain()).encode())


def error_of(storage: Storage, nonce: str) -> CapfiltError | None:
    """What a job ended with; ``None`` when it left nothing, as one that was killed does."""
    try:
        return of_plain(json.loads(storage.read(f"{ERRORS}/{nonce}.json")))
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # of another version, say
        return None
