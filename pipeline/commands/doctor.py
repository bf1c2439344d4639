"""`capfilt doctor`."""

import json
import os
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from capfilt.pipeline.commands.shared import Json
from capfilt.pipeline.reports.visible import visible

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe in YAML; without it, the installation.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster (auto, host:port), or its dashboard (http://head:8265)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look whether a recipe can run, here and on a cluster; the exit code is 1 when something would fail."""
    from capfilt.pipeline.doctor.examine import examine

    found, out = [], Console(file=sys.stdout)
    with redirect_stdout(sys.stderr):  # Ray prints there what nodes say
        for finding in examine(recipe, address):
            found.append(finding)
            if as_json:
                continue
            line = Text(f"{finding.verdict:<5}", COLOURS[finding.verdict])
            line.append(f" {finding.name:<16} ", "bold").append(visible(finding.found), "default")
            out.print(line, soft_wrap=True, highlight=False)
            if finding.remedy:
                out.print(Text(f"      remedy: {visible(finding.remedy)}"), soft_wrap=True, highlight=False)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    code = int(any(finding.verdict == "fail" for finding in found))
    if any(thread.name.startswith("doctor ") for thread in threading.enumerate()):
        sys.stdout.flush()  # a check hangs, and would hold up the end of the interpreter
        os._exit(code)
    raise SystemExit(code)
