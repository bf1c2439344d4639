"""`capfilt submit`: a run on a cluster."""

from typing import Annotated

import typer

from pipeline.commands.shared import Changes, RecipeFile, Until, say


def submit(
    recipe: RecipeFile,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, such as http://head:8265.")],
    changes: Changes = None,
    until: Until = None,
) -> None:
    """Send a recipe to a Ray cluster as a job; `capfilt status RUN` follows it."""
    from pipeline.recipe import load
    from pipeline.submit import submit as send

    loaded = load(recipe, changes or ())
    job = send(loaded, address, until)
    say(f"submitted {job}\nfollow it: capfilt status --follow {loaded.run}")
