"""Every error that capfilt raises on purpose, and the exit code of the command it ends.

::

    CapfiltError
    ├── UsageError          2  what was asked for cannot be done as asked
    │   ├── RecipeError        a key, a value or a combination in the recipe
    │   ├── SourceError        a source that cannot be read as the recipe says
    │   ├── ModelError         a checkpoint that is missing, unsafe or of the wrong kind
    │   └── RunChangedError    the run on disk was made by something else than what is asked now
    ├── FailedError         1  the run stopped; what is committed stays, `capfilt resume` carries on
    │   ├── TrainingError      a training that cannot go on
    │   ├── CalibrationError   no threshold can be set from the human pairs
    │   ├── StageError         a stage whose shards keep failing
    │   ├── StorageError       a disk or a store that fails for too long, or refuses
    │   └── BusyError          another runner is at work in the run
    └── IntegrityError      3  data is not what its record says
        ├── ContractError      rows that break their data contract
        ├── ConservationError  rows that are neither kept nor rejected
        └── DamageError        a committed file that is missing, unreadable or altered

Each says what is wrong, the evidence, and the remedy.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar


class CapfiltError(Exception):
    """The root. ``str()`` gives all three parts on their own lines."""

    exit_code: ClassVar[int] = 1
    fields: ClassVar[tuple[str, ...]] = ("what", "evidence", "remedy")

    def __init__(self, *, what: str, evidence: str = "", remedy: str = "") -> None:
        self.what, self.evidence, self.remedy = what, evidence, remedy
        super().__init__(what, evidence, remedy)

    def __str__(self) -> str:
        parts = [
            self.what,
            self.evidence and f"evidence: {self.evidence}",
            self.remedy and f"remedy: {self.remedy}",
        ]
        return "\n".join(part for part in parts if part)

    def __reduce__(self) -> tuple[object, ...]:
        """Keyword-only arguments do not survive pickling by default; errors cross processes."""
        return partial(type(self), **self._values()), ()

    def plain(self) -> dict[str, Any]:
        """It as plain values, for another process: the class's name as ``kind``, and what it says."""
        return {"kind": type(self).__name__, **self._values()}

    def _values(self) -> dict[str, Any]:
        """Its own fields; a library that it passes through may have hung others on it."""
        return {name: getattr(self, name) for name in self.fields}


def of_plain(values: Mapping[str, Any]) -> CapfiltError:
    """What :meth:`CapfiltError.plain` gave. Raises :class:`LookupError` for a kind that is not known here."""
    kinds: dict[str, type[CapfiltError]] = {}
    waiting: list[type[CapfiltError]] = [CapfiltError]
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting += kind.__subclasses__()
    return kinds[values["kind"]](**{name: value for name, value in values.items() if name != "kind"})


class UsageError(CapfiltError):
    exit_code = 2


class RecipeError(UsageError):
    pass


class SourceError(UsageError):
    pass


class ModelError(UsageError):
    pass


class RunChangedError(UsageError):
    pass


class FailedError(CapfiltError):
    exit_code = 1


class TrainingError(FailedError):
    pass


class CalibrationError(FailedError):
    pass


class StageError(FailedError):
    pass


class StorageError(FailedError):
    """``run`` is where the run lies, when the storage is a run's."""

    fields = (*FailedError.fields, "run")

    def __init__(self, *, what: str, evidence: str = "", remedy: str = "", run: str = "") -> None:
        super().__init__(what=what, evidence=evidence, remedy=remedy)
        self.run = run

    def __str__(self) -> str:
        said = super().__str__()
        return f"{said}, then capfilt resume {self.run}: what is committed stays" if self.run else said


class BusyError(FailedError):
    pass


class IntegrityError(CapfiltError):
    exit_code = 3


class ContractError(IntegrityError):
    pass


class ConservationError(IntegrityError):
    pass


class DamageError(IntegrityError):
    """Names the stage and the part, so that the runner can set it aside and redo its shard."""

    fields = (*IntegrityError.fields, "stage", "part")

    def __init__(
        self, *, what: str, evidence: str = "", remedy: str = "", stage: str = "", part: str = ""
    ) -> None:
        super().__init__(what=what, evidence=evidence, remedy=remedy)
        self.stage, self.part = stage, part
