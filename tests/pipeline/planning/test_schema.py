from pathlib import Path
from typing import Any

import pytest
import yaml

from capfilt.data_contracts.errors import RecipeError
from capfilt.models.protocols import Decoding
from capfilt.models.training.settings import FilterSettings
from capfilt.pipeline.planning.schema import ParentsKeys, Recipe, load, parse, settings_of
from capfilt.stages.clean.select import SelectRule

ROOT = Path(__file__).parents[3]
RECIPES = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "pipeline/demo/recipe.yaml"]


def minimal(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "mine",
        "output": "runs",
        "web": {"format": "folder", "path": "crawl"},
        "models": {"filter": {"checkpoint": "org/filter"}, "captioner": {"checkpoint": "org/captioner"}},
    }
    return {**values, **changes}


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(values)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_what_a_run_writes_down_reads_back_as_the_same_recipe(path: Path) -> None:
    recipe = load(path)
    again = parse(recipe.plain())
    assert again == recipe
    assert again.plain() == recipe.plain()


@pytest.mark.parametrize("off", [0, None])
def test_placeholders_can_be_switched_off_and_stay_so(off: int | None) -> None:
    assert parse(minimal()).images.placeholder == 10
    recipe = parse(minimal(images={"placeholder": off}, texts={"rules": []}))
    assert recipe.images.placeholder == 0
    assert recipe.texts.rules == ()
    assert parse(recipe.plain()) == recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": {"placeholder": 1}}, "one row is not many"),
        ({"images": {"max_pixels": 10**9}}, "images.max_pixels"),
        ({"images": {"max_aspect": 0.5}}, "images.max_aspect"),
        ({"texts": {"rules": ["urls"]}}, "texts.rules"),
        ({"texts": {"min_lenght": 1}}, "did you mean 'min_length'"),
    ],
)
def test_hygiene_that_cannot_be(change: dict[str, Any], says: str) -> None:
    assert says in refused(minimal(**change))


def test_there_are_examples() -> None:
    assert len(RECIPES) >= 3


@pytest.mark.parametrize(
    ("change", "where", "near"),
    [
        ({"modles": {}}, "modles", "models"),
        ({"select": {"treshold": 0.5}}, "select.treshold", "threshold"),
        ({"web": [{"format": "folder", "path": "a", "text_colum": "t"}]}, "web.0.text_colum", "text_column"),
        ({"caption": {"topp": 0.9}}, "caption.topp", "top_p"),
        ({"caption": {"guard": {"min_word": 3}}}, "caption.guard.min_word", "min_words"),
        (
            {"models": {"filter": {"checkpint": "x"}, "captioner": {}}},
            "models.filter.checkpint",
            "checkpoint",
        ),
        ({"placement": {"caption": {"gpu": 1}}}, "placement.caption.gpu", "gpus"),
        ({"caption": {"seed": 3}}, "caption.seed", "beams"),  # a recipe has one seed, at its top
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    change: dict[str, Any], where: str, near: str
) -> None:
    said = refused(minimal(**change))
    assert f"unknown recipe key {where}" in said
    assert f"did you mean {near!r}?" in said or where.endswith("seed")
    assert near in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../up"}, "recipe key name"),
        ({"seed": -1}, "recipe key seed"),
        ({"web": "crawl"}, "recipe key web"),
        ({"web": {"format": "zip", "path": "a"}}, "recipe key web.0.format"),
        ({"select": {"threshold": 1.5}}, "recipe key select.threshold"),
        ({"select": {"threshold": {"keep_fraction": 0}}}, "keep_fraction"),
        ({"select": {"rule": "all"}}, "'both', 'best' or 'raw_else_synthetic'"),
        ({"shards": {"target": "12 parsecs"}}, "recipe key shards.target"),
        (
            {"models": {"filter": {"checkpoint": "x", "steps": "many"}, "captioner": {}}},
            "models.filter.steps",
        ),
        ({"placement": {"captoin": {"batch": 1}}}, "no stage is called 'captoin', did you mean 'caption'?"),
        (
            {"web": [{"name": "a", "format": "folder", "path": p} for p in "xy"]},
            "two sources have the name 'a'",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named(change: dict[str, Any], says: str) -> None:
    assert says in refused(minimal(**change))


def test_a_key_that_is_missing() -> None:
    values = minimal()
    del values["models"]
    assert "recipe key models: field required" in refused(values)


def test_a_source_without_a_format_and_with_columns_to_keep() -> None:
    (source,) = parse(minimal(web={"path": "list.csv", "keep_columns": ["a", "b"]})).web
    assert (source.format, source.keep_columns) == (None, ("a", "b"))
    assert parse(parse(minimal(web={"path": "list.csv"})).plain()).web[0].format is None


def test_a_shard_of_a_list_has_rows() -> None:
    assert parse(minimal()).shards.rows == 10_000
    assert parse(minimal(shards={"rows": 7})).shards.rows == 7
    assert "recipe key shards.rows" in refused(minimal(shards={"rows": 0}))


def test_a_source_in_a_store_keeps_its_url(tmp_path: Path) -> None:
    recipe = load(write(tmp_path / "r.yaml", minimal(web={"format": "urls", "path": "s3://bucket/a.csv"})))
    assert recipe.web[0].path == "s3://bucket/a.csv"


def test_one_source_or_several_each_with_a_name() -> None:
    assert [source.name for source in parse(minimal()).web] == ["web"]
    two = [{"format": "folder", "path": "a"}, {"name": "mine", "format": "parquet", "path": "b"}]
    assert [source.name for source in parse(minimal(web=two)).web] == ["web-1", "mine"]


@pytest.mark.parametrize(
    ("given", "size"),
    [("256MB", 256_000_000), ("1.5 gb", 1_500_000_000), (5000, 5000), ("7B", 7), ("2kb", 2000)],
)
def test_sizes(given: Any, size: int) -> None:
    assert parse(minimal(shards={"target": given})).shards.target == size


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
        "capfilt.pipeline.planning.schema.fast_precision", lambda gpu: "bf16" if gpu else "fp32"
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


def test_settings_take_what_is_given_the_recipes_seed_and_their_own_defaults() -> None:
    keys = parse(minimal(caption={"top_p": 0.5})).caption
    assert settings_of(Decoding, keys, 7) == Decoding(top_p=0.5, seed=7)
    assert settings_of(FilterSettings, None, 7) == FilterSettings(seed=7)


def test_a_zero_and_a_false_are_given_values() -> None:
    models: Any = parse(minimal(models={"filter": {"steps": 0, "flip": False}, "captioner": {}})).models
    made = settings_of(FilterSettings, models.filter, 0)
    assert (made.steps, made.flip) == (0, False)


def test_a_recipe_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.model_validate(minimal()).seed = 1  # type: ignore[misc]


def test_a_threshold_that_is_none_is_told_what_it_may_be() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(minimal(select={"threshold": 1.7}, caption={"top_p": "high"}, seed=-1))
    assert "recipe key seed: " in str(caught.value)
    assert "more is wrong with caption.top_p, select.threshold" in str(caught.value)
    with pytest.raises(RecipeError, match=r"select.threshold: input should be 'calibrated'; or .*1"):
        parse(minimal(select={"threshold": 1.7}))


@pytest.mark.parametrize(
    ("threshold", "fine"),
    [
        ({"precision": 0.95}, True),
        ({"recall": 1.0}, True),
        ({"precision": 1.0}, False),  # nobody can promise that
        ({"recall": 0}, False),
        ({"precision": 0.9, "recall": 0.9}, False),
    ],
)
def test_a_threshold_by_target(threshold: dict[str, float], fine: bool) -> None:
    if fine:
        assert parse(minimal(select={"threshold": threshold})).plain()["select"]["threshold"] == threshold
    else:
        with pytest.raises(RecipeError, match="threshold"):
            parse(minimal(select={"threshold": threshold}))
