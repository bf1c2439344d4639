"""Places where a test may kill the process: ``CAPFILT_FAILPOINT=NAME`` or ``NAME:N`` for the Nth time it is reached.

They stand at every step of the commit protocol. Without the variable they cost one look-up.
"""

import os
import signal
from collections import Counter

VARIABLE = "CAPFILT_FAILPOINT"
NAMES = (
    "rejects.before",  # the rows are made, nothing is published
    "rejects.after",  # the rejects are published, the part is not
    "create.written",  # a file is written, not yet flushed
    "create.synced",  # it is flushed, not yet under its name
    "create.linked",  # it has its name; the folder is not yet flushed
    "part.published",  # a part is committed, its index entry is not written
    "part.indexed",  # its index entry is written
    "model.written",  # a model is complete in the scratch folder
    "model.published",  # it has its name; the part that commits it is not there
    "totals.before",  # every shard is committed, the stage is not closed
    "totals.after",  # the stage is closed
)
_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die by SIGKILL here if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    where, _, count = wanted.partition(":")
    if where == name:
        _passed[name] += 1
        if _passed[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
