"""What `import capfilt` offers, and what it does not load."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import capfilt
from capfilt.data_contracts import errors

SURFACE = {
    "recipes and runs": {
        *("__version__", "load_recipe", "Recipe", "plan", "PlannedRun", "run", "resume", "retry_failed"),
        *("Event", "open_run", "Run", "submit"),
    },
    "models": {
        *(
            "open_captioner",
            "open_filter",
            "open_embedder",
            "caption",
            "score",
            "classify",
            "Decoding",
            "Inference",
        ),
        *("Captioner", "Matcher", "Embedder", "Written", "Match", "Unreadable"),
    },
    "stages": {
        *("Stage", "ShardStage", "GlobalStage", "CollectiveStage", "Site", "ShardInput", "StageInput"),
        *("Transform", "Rows", "Rejected", "Contract", "Record", "Reject", "Reason"),
    },
    "errors": {
        *("CapfiltError", "UsageError", "RecipeError", "SourceError", "ModelError", "RunChangedError"),
        *("FailedError", "TrainingError", "CalibrationError", "StageError", "StorageError", "BusyError"),
        *("IntegrityError", "ContractError", "ConservationError", "DamageError"),
    },
}


def test_the_public_names_are_these_and_no_others() -> None:
    assert set(capfilt.__all__) == set().union(*SURFACE.values())
    assert len(capfilt.__all__) == len(set(capfilt.__all__))


@pytest.mark.parametrize("name", capfilt.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(capfilt, name)
    assert name in dir(capfilt)
    if name not in ("__version__", "Transform"):  # a string, an alias of a type
        assert name in SURFACE["errors"] or found.__doc__, name


def test_every_error_of_the_tree_is_public() -> None:
    tree = {
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, Exception)
    }
    assert tree == SURFACE["errors"]


def test_type_checkers_see_the_names_that_python_finds() -> None:
    module = ast.parse(Path(capfilt.__file__).read_text())
    checked = next(node for node in module.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module
        for node in ast.walk(checked)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = {name: f"capfilt.{where}" for name, where in capfilt._MODULES.items()}
    assert imported == found
    assert {*imported, "__version__"} == set(capfilt.__all__)


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_runs'"):
        capfilt.open_runs  # type: ignore[attr-defined]  # noqa: B018  # that is what is tested


def loaded_by(code: str) -> list[str]:
    """The modules of a process that ran this."""
    code = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(said.stdout)
    return names


def test_importing_it_loads_no_library_and_nothing_of_its_own() -> None:
    loaded = loaded_by("import capfilt")
    assert [name for name in loaded if name.startswith("capfilt")] == ["capfilt"]
    assert not {"torch", "ray", "duckdb", "pyarrow", "numpy", "pydantic"} & set(loaded)


def test_looking_into_a_run_loads_neither_torch_nor_ray() -> None:
    loaded = set(loaded_by("import capfilt\ncapfilt.open_run, capfilt.Run, capfilt.CapfiltError"))
    assert "duckdb" in loaded
    assert not {"torch", "ray", "transformers"} & loaded
