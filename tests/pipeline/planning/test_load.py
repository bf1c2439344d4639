from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.pipeline.planning.load import load, parse
from capfilt.pipeline.planning.model_keys import ParentsKeys
from capfilt.stages.clean.select import SelectRule
from tests.pipeline.planning.recipes import minimal, write


def test_a_source_in_a_store_keeps_its_url(tmp_path: Path) -> None:
    recipe = load(write(tmp_path / "r.yaml", minimal(web={"format": "urls", "path": "s3://bucket/a.csv"})))
    assert recipe.web[0].path == "s3://bucket/a.csv"


def test_changes_from_the_command_line_are_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", minimal(placement={"caption": {"batch": 1}}))
    changes = [
        "select.threshold=0.7",
        "select.rule=best",
        "seed=3",
        "placement.caption.gpus=1",
        "placement.score.actors=2",
        "human={format: folder, path: h}",
        "export.images=ids",
    ]
    recipe = load(path, changes)
    assert (recipe.select.threshold, recipe.select.rule, recipe.seed) == (0.7, SelectRule.BEST, 3)
    assert (recipe.placement["caption"].batch, recipe.placement["caption"].gpus) == (1, 1.0)
    assert recipe.placement["score"].actors == 2
    assert recipe.human[0].path == str(tmp_path / "h")
    assert recipe.export.images == "ids"


def test_a_change_may_replace_a_value_by_keys_and_reach_into_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", minimal(web=[{"format": "folder", "path": "a"}]))
    recipe = load(path, ["select.threshold.keep_fraction=0.3", "web.0.path=b"])
    assert recipe.select.threshold.keep_fraction == 0.3  # type: ignore[union-attr]
    assert recipe.web[0].path == str(tmp_path / "b")


@pytest.mark.parametrize(
    "change",
    ["select.threshold", "=3", "web.9.path=a", "web.0=a", "name.x.y=[", "select.treshold=0.7", "seed=[1,"],
)
def test_a_change_that_cannot_be_made(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "r.yaml", minimal(web=[{"format": "folder", "path": "a"}]))
    with pytest.raises(RecipeError):
        load(path, [change])


def test_parents_are_paths(tmp_path: Path) -> None:
    models = {"init": {"vision": "vit", "text": "/bert"}, "filter": {}, "captioner": {}}
    recipe = load(write(tmp_path / "r.yaml", minimal(models=models)))
    assert recipe.models.init == ParentsKeys(vision=str(tmp_path / "vit"), text="/bert")
    with pytest.raises(RecipeError, match=r"init"):
        parse(minimal(models={**models, "init": {"vision": "vit"}}))


def test_auto_precision_is_settled_when_the_recipe_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run that another machine carries on computes as it began."""
    monkeypatch.setattr(
        "capfilt.pipeline.planning.load.fast_precision", lambda gpu: "bf16" if gpu else "fp32"
    )
    plain_machine = load(write(tmp_path / "r.yaml", minimal()))
    assert plain_machine.models.precision == "fp32"
    assert parse(plain_machine.plain()).models.precision == "fp32"
    assert load(tmp_path / "r.yaml", ["placement.score.gpus=1"]).models.precision == "bf16"
    assert load(tmp_path / "r.yaml", ["models.precision=int8"]).models.precision == "int8"


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub/models/mine").mkdir(parents=True)
    values = minimal(
        output="../runs",
        web={"format": "folder", "path": "crawl", "captions": "/elsewhere/c.csv"},
        models={
            "init": "tiny",
            "warmup": {"images": "w", "labels": "w/labels.csv"},
            "filter": {"checkpoint": "models/mine"},
            "captioner": {"checkpoint": "./not/yet"},
        },
    )
    monkeypatch.chdir("/")
    recipe = load(write(tmp_path / "sub/r.yaml", values))
    assert recipe.run == str(tmp_path / "runs/mine")
    assert (recipe.web[0].path, recipe.web[0].captions) == (str(tmp_path / "sub/crawl"), "/elsewhere/c.csv")
    models: Any = recipe.models
    assert models.filter.checkpoint == str(tmp_path / "sub/models/mine")
    assert models.captioner.checkpoint == str(tmp_path / "sub/not/yet")
    assert (models.warmup.images, models.warmup.labels) == (
        str(tmp_path / "sub/w"),
        str(tmp_path / "sub/w/labels.csv"),
    )
    assert models.init == "tiny"


def test_a_model_on_the_hub_keeps_its_name(tmp_path: Path) -> None:
    models: Any = load(write(tmp_path / "r.yaml", minimal())).models
    assert (models.filter.checkpoint, models.tokenizer) == ("org/filter", "wordpiece:8000")


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "cannot be read as YAML"), ("- a\n", "is not a recipe"), ("", "is not")]
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=says):
        load(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="there is no recipe"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("name: a\noutput: b\nname: c\n", "name", "2 and 4"),
        ("models:\n  filter: {}\n  init: tiny\n  filter: {}\n", "filter", "3 and 5"),
        ("web: {path: a, path: b}\n", "path", "2 and 2"),
    ],
)
def test_a_key_that_is_given_twice(tmp_path: Path, text: str, key: str, lines: str) -> None:
    (tmp_path / "r.yaml").write_text("# a comment\n" + text)
    with pytest.raises(RecipeError, match=f"the key {key} is given twice") as caught:
        load(tmp_path / "r.yaml")
    assert f"in lines {lines}" in str(caught.value)


def test_a_change_with_a_key_that_is_given_twice(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        load(write(tmp_path / "r.yaml", minimal()), ["caption={top_p: 0.5, top_p: 0.6}"])


def test_a_mapping_that_is_merged_may_be_changed(tmp_path: Path) -> None:
    """That is what YAML's `<<` is for."""
    text = (
        "name: a\noutput: b\nweb: {path: c}\nmodels:\n"
        "  filter: &both {steps: 3, lr: 1e-3, flip: no}\n  captioner: {<<: *both, steps: 4}\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    models = load(tmp_path / "r.yaml").models
    assert (models.filter.steps, models.captioner.steps) == (3, 4)
    assert models.captioner.lr == 0.001  # YAML 1.1 would read a text
    assert models.captioner.flip is False


def test_a_truth_value_is_no_number(tmp_path: Path) -> None:
    """YAML reads `yes` as true, which is 1 in Python."""
    path = write(tmp_path / "r.yaml", minimal())
    for change in ("select.threshold=yes", "select.threshold=true", "models.warmup={words: on}", "seed=true"):
        with pytest.raises(RecipeError, match=f"recipe key {change.partition('=')[0]}"):
            load(path, [change])


def test_every_path_is_made_absolute_by_its_type(tmp_path: Path) -> None:
    values = minimal(
        human={"path": "h", "captions": "h.csv"},
        fetch={"takedown": "t.txt"},
        export={"takedown": "e.txt"},
        decontaminate="eval",
        dedup={"model": "./d"},
        select={"balance": {"cap": 1, "words": "w.txt"}},
        models={"tokenizer": "./k", "filter": {}, "captioner": {}, "pretrain": {"from_run": "../run"}},
    )
    recipe = load(write(tmp_path / "r.yaml", values))
    assert recipe.models.pretrain is not None
    assert recipe.dedup is not None
    assert recipe.select.balance is not None
    found = {
        "h": recipe.human[0].path,
        "h.csv": recipe.human[0].captions,
        "t.txt": recipe.fetch.takedown,
        "e.txt": recipe.export.takedown,
        "eval": recipe.decontaminate[0],
        "d": recipe.dedup.model,
        "w.txt": recipe.select.balance.words,
        "k": recipe.models.tokenizer,
        "runs": recipe.output,
    }
    assert found == {name: str(tmp_path / name) for name in found}
    assert recipe.models.pretrain.from_run == str(tmp_path.parent / "run")
    assert parse(recipe.plain()) == recipe  # where they are absolute they stay


@pytest.mark.parametrize("output", ["s3://bucket/prefix", "gs://bucket"])
def test_a_store_is_no_path(tmp_path: Path, output: str) -> None:
    assert load(write(tmp_path / "r.yaml", minimal(output=output))).output == output


def test_an_output_may_be_a_file_url(tmp_path: Path) -> None:
    assert load(write(tmp_path / "r.yaml", minimal(output="file:///data"))).output == "/data"


def test_a_run_in_its_own_source(tmp_path: Path) -> None:
    """Also where both are called otherwise than they are."""
    for path in ("runs", "./", str(tmp_path)):
        with pytest.raises(RecipeError, match="lies in its own source"):
            load(write(tmp_path / "r.yaml", minimal(web={"format": "folder", "path": path})))


def test_an_alias_may_lead_back_to_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: &a [1, *a]\n")
    with pytest.raises(RecipeError, match="recipe key"):
        load(tmp_path / "r.yaml")


def test_a_merged_mapping_that_merges_another_has_no_key_twice(tmp_path: Path) -> None:
    text = "x: &x {a: 1}\ny: {z: &z {<<: *x, a: 2}}\nw: {<<: *z}\n"  # z is flattened for w before it is read itself
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match="unknown recipe key x"):
        load(tmp_path / "r.yaml")
