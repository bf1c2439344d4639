"""What the documents say can be done can be done: recipes parse, commands and options exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from capfilt.data_contracts.rejects import MEANING, Reason
from capfilt.pipeline.commands.cli import app
from capfilt.pipeline.planning.load import load, parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    inline = re.findall(r"`(capfilt [^`]+)`", README)
    return [line for line in (*lines, *inline) if line.startswith("capfilt ")]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_of_the_readme_exists_with_its_options(command: str) -> None:
    _, name, *words = shlex.split(command)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group has commands
    assert name in known
    options = {option for parameter in known[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_the_readme_has_the_two_commands_and_is_short() -> None:
    assert "make demo" in README
    assert "make test" in README
    assert len(README.splitlines()) <= 200


def test_every_reject_code_is_in_the_docs_with_its_meaning() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.+) \|$", (ROOT / "docs/rejects.md").read_text(), re.MULTILINE)
    assert dict(rows) == {str(reason): meaning for reason, meaning in MEANING.items()}
    assert len(rows) == len(Reason)


def test_the_recipes_of_the_readme_are_recipes() -> None:
    released, scratch = (yaml.safe_load(block) for block in blocks("yaml"))
    assert parse(released).models.filter.checkpoint == "Salesforce/blip-itm-base-coco"
    assert parse({**released, **scratch}).models.pretrain.steps == 2000


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "pipeline/demo/recipe.yaml"]
)
def test_every_shipped_recipe_parses(path: Path) -> None:
    assert load(path).name


@pytest.mark.parametrize("key", re.findall(r"^\| `([a-z]+)\.?[a-zA-Z]*` \|", README, re.MULTILINE))
def test_the_keys_in_the_readmes_table_are_keys(key: str) -> None:
    assert key in parse(yaml.safe_load(blocks("yaml")[0])).model_dump()
