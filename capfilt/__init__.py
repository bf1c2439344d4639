"""CapFilt, the dataset bootstrapping of BLIP, as a resumable pipeline on Ray.

The names below are the public API, which does what the command line does; docs/python.md shows them at work. Each is
loaded when it is first used, so that ``import capfilt`` itself loads neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capfilt.data_contracts.contract import Contract
    from capfilt.data_contracts.errors import (
        BusyError,
        CalibrationError,
        CapfiltError,
        ConservationError,
        ContractError,
        DamageError,
        FailedError,
        IntegrityError,
        ModelError,
        RecipeError,
        RunChangedError,
        SourceError,
        StageError,
        StorageError,
        TrainingError,
        UsageError,
    )
    from capfilt.data_contracts.records import Record
    from capfilt.data_contracts.rejects import Reason, Reject
    from capfilt.models.protocols import Captioner, Decoding, Embedder, Inference, Match, Matcher, Written
    from capfilt.pipeline.ad_hoc.images import Unreadable
    from capfilt.pipeline.api.jobs import submit
    from capfilt.pipeline.api.models import caption, open_captioner, open_embedder, open_filter, score
    from capfilt.pipeline.api.plans import PlannedRun, plan
    from capfilt.pipeline.api.run import Run, open_run
    from capfilt.pipeline.api.runs import load_recipe, resume, retry_failed, run
    from capfilt.pipeline.api.search import classify
    from capfilt.pipeline.execution.events import Event
    from capfilt.pipeline.planning.schema import Recipe
    from capfilt.stages.stage import (
        CollectiveStage,
        GlobalStage,
        Rejected,
        Rows,
        ShardInput,
        ShardStage,
        Site,
        Stage,
        StageInput,
        Transform,
    )

    __version__: str

__all__ = [
    "BusyError",
    "CalibrationError",
    "CapfiltError",
    "Captioner",
    "CollectiveStage",
    "ConservationError",
    "Contract",
    "ContractError",
    "DamageError",
    "Decoding",
    "Embedder",
    "Event",
    "FailedError",
    "GlobalStage",
    "Inference",
    "IntegrityError",
    "Match",
    "Matcher",
    "ModelError",
    "PlannedRun",
    "Reason",
    "Recipe",
    "RecipeError",
    "Record",
    "Reject",
    "Rejected",
    "Rows",
    "Run",
    "RunChangedError",
    "ShardInput",
    "ShardStage",
    "Site",
    "SourceError",
    "Stage",
    "StageError",
    "StageInput",
    "StorageError",
    "TrainingError",
    "Transform",
    "Unreadable",
    "UsageError",
    "Written",
    "__version__",
    "caption",
    "classify",
    "load_recipe",
    "open_captioner",
    "open_embedder",
    "open_filter",
    "open_run",
    "plan",
    "resume",
    "retry_failed",
    "run",
    "score",
    "submit",
]

# Where each name is, as the imports above tell type checkers.
_NAMES = {
    "data_contracts.contract": "Contract",
    "data_contracts.errors": (
        "BusyError CalibrationError CapfiltError ConservationError ContractError DamageError "
        "FailedError IntegrityError ModelError RecipeError RunChangedError SourceError StageError "
        "StorageError TrainingError UsageError"
    ),
    "data_contracts.records": "Record",
    "data_contracts.rejects": "Reason Reject",
    "models.protocols": "Captioner Decoding Embedder Inference Match Matcher Written",
    "pipeline.ad_hoc.images": "Unreadable",
    "pipeline.api.jobs": "submit",
    "pipeline.api.models": "caption open_captioner open_embedder open_filter score",
    "pipeline.api.plans": "PlannedRun plan",
    "pipeline.api.run": "Run open_run",
    "pipeline.api.runs": "load_recipe resume retry_failed run",
    "pipeline.api.search": "classify",
    "pipeline.execution.events": "Event",
    "pipeline.planning.schema": "Recipe",
    "stages.stage": (
        "CollectiveStage GlobalStage Rejected Rows ShardInput ShardStage Site Stage StageInput Transform"
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # type checkers would take any name for one of these

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("capfilt")
        elif name in _MODULES:
            value = getattr(import_module(f"capfilt.{_MODULES[name]}"), name)
        else:
            raise AttributeError(f"module 'capfilt' has no attribute {name!r}")
        globals()[name] = value  # from now on without this function
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
