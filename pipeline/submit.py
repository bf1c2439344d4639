"""Send a recipe to a running Ray cluster as a job."""

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from ray.exceptions import RayError
from ray.job_submission import JobSubmissionClient

import pipeline
from data_contracts.errors import StageError
from pipeline.recipe import Recipe

PACKAGES = ("data_contracts", "models", "stages", "pipeline")


def submit(recipe: Recipe, address: str, until: str | None = None) -> str:
    """Upload the code and the recipe, start `capfilt run` there, and give the job's id.

    The paths in the recipe must mean the same on the cluster: a shared folder, or this very machine. Ray's token
    authentication works as Ray sets it up: ``RAY_AUTH_MODE=token`` and the token in its usual places.

    Raises:
        StageError: the cluster does not answer, or refuses.
    """
    root = Path(pipeline.__file__).parent.parent
    with tempfile.TemporaryDirectory(prefix="capfilt-job-") as folder:
        for package in PACKAGES:
            shutil.copytree(
                root / package, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(recipe.plain(), sort_keys=False))
        command = "run recipe.yaml" + (f" --until {shlex.quote(until)}" if until else "")
        # The interpreter of this environment where the node has it at the same place, else the node's own.
        python = f'PY={shlex.quote(sys.executable)}; [ -x "$PY" ] || PY=python; exec "$PY" -m pipeline.cli'
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)  # Ray lets them win over the address that is asked for
        try:
            client = JobSubmissionClient(address)
            return str(
                client.submit_job(
                    entrypoint=f"{python} {command}",
                    runtime_env={"working_dir": folder},
                    metadata={"capfilt.run": recipe.run},
                )
            )
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            lines = str(error).strip().splitlines()
            raise StageError(
                what=f"the Ray cluster at {address} did not take the job",
                evidence=lines[0] if lines else type(error).__name__,
                remedy="give the dashboard's address, such as http://head:8265; a cluster that was started with "
                "token authentication needs RAY_AUTH_MODE=token and its token here too",
            ) from error
