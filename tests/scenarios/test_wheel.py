"""The wheel, installed where there is nothing else of capfilt: what is in it, and that all of it works."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.command import write_recipe

ROOT = Path(__file__).parents[2]
ROOMS = ("data_contracts", "models", "stages", "pipeline")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is published."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and the dependencies of this one; commands run in an empty folder."""

    bin: Path
    folder: Path

    def __call__(self, *command: object, cwd: Path | None = None) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))}
        done = subprocess.run(
            [str(self.bin / str(command[0])), *map(str, command[1:])],
            cwd=cwd or self.folder,
            env={**env, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("installed")
    venv.create(home / "env", symlinks=True)
    python = home / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = (home / "env").glob("lib/python*/site-packages")
    # The packages of this environment; those installed in place are not among them, as their .pth files do not count.
    own = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(own) + "\n")
    (home / "empty").mkdir()
    return Installed(python.parent, home / "empty")


def test_it_has_one_package_and_all_of_its_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = next(name for name in names if name.endswith("/METADATA")).partition("/")[0]
    assert info.startswith("capfilt-")
    assert {name.partition("/")[0] for name in names} == {"capfilt", info}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "capfilt/*.*", *ROOMS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    files = {
        name if name.startswith("capfilt/") else f"capfilt/{name}"
        for name in tracked
        if (ROOT / name).exists()
    }
    assert files == {name for name in names if name.startswith("capfilt/")}
    assert "capfilt/py.typed" in files


def test_its_import_is_that_of_the_wheel_and_the_four_folders_are_none(installed: Installed) -> None:
    code = (
        "import capfilt, importlib.util, json; "
        f"print(json.dumps([capfilt.__file__, capfilt.__version__, "
        f"[name for name in {ROOMS} if importlib.util.find_spec(name)], "
        "[name for name in capfilt.__all__ if not hasattr(capfilt, name)]]))"
    )
    file, version, found, missing = json.loads(installed("python", "-c", code))
    assert Path(file).is_relative_to(installed.bin.parent)
    assert version
    assert found == []
    assert missing == []


def test_every_command_has_its_help(installed: Installed) -> None:
    assert "Usage: capfilt" in installed("capfilt", "--help")
    code = (
        "from typer.testing import CliRunner; from capfilt.pipeline.commands.cli import app, COMMANDS; import json; "
        "names = [command.__name__.replace('_', '-') for command in COMMANDS]; "
        "said = {name: CliRunner().invoke(app, [name, '--help']) for name in names}; "
        "print(json.dumps({name: [one.exit_code, one.output] for name, one in said.items()}))"
    )
    said: dict[str, tuple[int, str]] = json.loads(installed("python", "-c", code))
    assert {"run", "resume", "retry-failed", "plan", "demo", "report-card", "doctor"} <= said.keys()
    assert {name: code for name, (code, _) in said.items() if code} == {}
    assert all("Usage:" in text for _, text in said.values())


def test_a_run_with_workers_of_ray(installed: Installed, recipe: dict[str, Any]) -> None:
    folder = installed.folder.parent / "work"
    for name in ROOMS:  # of the user's own
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('not those of the user')\n")
    own = {key: value for key, value in recipe.items() if key != "human"}
    write_recipe(folder / "recipe.yaml", own, name="tiny", shards={"target": "10MB"})
    assert "cleaned pairs: " in installed("capfilt", "run", "recipe.yaml", cwd=folder)
    assert "texts:" in installed("capfilt", "report", "runs/tiny", cwd=folder)
    code = (
        "import capfilt; run = capfilt.open_run('runs/tiny'); "
        "print(run.complete, run.query('SELECT count(*) AS n FROM export')['n'][0].as_py() > 0)"
    )
    assert installed("python", "-c", code, cwd=folder).split() == ["True", "True"]
