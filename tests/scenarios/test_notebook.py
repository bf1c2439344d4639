"""examples/in_python.ipynb, run from its first cell to its last."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "examples" / "in_python.ipynb"


def _other_runs(run: Path) -> Callable[[str, list[str]], list[str]]:
    """What other tests of the session made beside a run."""
    return lambda folder, names: [name for name in names if Path(folder) == run.parent and name != run.name]


def test_its_cells_run_in_their_order(finished: Path, tmp_path: Path):
    """After `make demo`: of a run that is finished, which is forked."""
    shutil.copytree(finished.parents[1], tmp_path / "demo", ignore=_other_runs(finished))
    (tmp_path / "examples").mkdir()
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "examples" / "cells.py").write_text("\n\n".join([*code, "print(strict.complete)"]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path / "examples",
        env={**kept, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout
    assert done.stdout.splitlines()[-1] == "True"
    assert (tmp_path / "demo" / "runs" / "strict" / "export").is_dir()
