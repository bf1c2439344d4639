"""Places where a test may kill the process, by SIGKILL: ``CAPFILT_FAILPOINT=NAME[:N][@FILE][,...]``.

The process dies when it reaches the place for the Nth time; with a FILE only if it can create it, so that of
all the processes that inherit the variable one dies, once. Without the variable a place costs one look-up.

Besides the steps of the commit protocol in ``NAMES`` there are ``batch.STAGE``, in a worker before each batch (in
a training every ten steps), and ``ended.STAGE``, in the driver when a task of the stage has ended.
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
    "index.compacted",  # the index is one file, the entries that it replaces are still there
    "model.written",  # a model is complete in the scratch folder
    "model.published",  # it has its name; the part that commits it is not there
    "totals.before",  # every shard is committed, the stage is not closed
    "totals.after",  # the stage is closed
)
_reached: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    for one in wanted.split(","):
        place, _, file = one.partition("@")
        where, _, count = place.partition(":")
        if where == name:
            _reached[one] += 1
            if _reached[one] >= int(count or 1) and (not file or _created(file)):
                os.kill(os.getpid(), signal.SIGKILL)


def _created(file: str) -> bool:
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
