from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.pipeline.planning.load import load, parse
from capfilt.pipeline.planning.schema import Recipe
from tests.pipeline.planning.recipes import RECIPES, minimal, refused


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


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"seed": True}, "seed: input should be a valid integer"),
        ({"seed": 1.0}, "seed: input should be a valid integer"),
        ({"seed": "1"}, "seed: input should be a valid integer"),
        ({"select": {"threshold": True}}, "select.threshold: input should be 'calibrated'; or "),
        ({"select": {"threshold": "0.5"}}, "select.threshold: input should be 'calibrated'; or "),
        ({"caption": {"top_p": "0.9"}}, "caption.top_p: input should be a valid number"),
        ({"caption": {"per_image": True}}, "caption.per_image: "),
        (
            {"caption": {"guard": {"prompt_echo": 1}}},
            "caption.guard.prompt_echo: input should be a valid boolean",
        ),
        ({"fetch": {"robots": "no"}}, "fetch.robots: "),
        ({"images": {"placeholder": True}}, "images.placeholder: "),
        ({"shards": {"target": True}}, "shards.target: "),
        (
            {"placement": {"caption": {"gpus": True}}},
            "placement.caption.gpus: input should be a valid number",
        ),
        ({"placement": {"caption": {"resources": {"disk": "1"}}}}, "placement.caption.resources.disk: "),
        ({"models": {"warmup": {"words": True}, "filter": {}, "captioner": {}}}, "models.warmup.words: "),
        (
            {"models": {"init": {"vision": 1, "text": "b"}, "filter": {}, "captioner": {}}},
            "models.init: input should be a valid string",
        ),
        ({"models": {"init": 3, "filter": {}, "captioner": {}}}, "models.init: "),
    ],
)
def test_nothing_is_converted_into_a_number_or_a_truth_value(change: dict[str, Any], where: str) -> None:
    assert f"recipe key {where}" in refused(minimal(**change))


@pytest.mark.parametrize("threshold", [0, 1])
def test_a_whole_number_may_be_where_any_number_may(threshold: int) -> None:
    found = parse(minimal(select={"threshold": threshold})).select.threshold
    assert found == threshold
    assert isinstance(found, float)


@pytest.mark.parametrize(("given", "word"), [(True, "on"), (False, "off"), ("auto", "auto"), ("on", "on")])
def test_on_and_off_are_words_though_yaml_reads_truth_values(given: object, word: str) -> None:
    models = {**minimal()["models"], "rehearsal": given}
    assert parse(minimal(models=models)).models.rehearsal == word


def test_an_unknown_key_beside_a_name_of_the_users() -> None:
    """`placement` and `resources` have names that no schema knows; what is below them is known."""
    assert "unknown recipe key placement.name.gpu" in refused(minimal(placement={"name": {"gpu": 1}}))


def test_what_a_run_writes_down_holds_the_defaults() -> None:
    """So that another version of capfilt carries it on with the same ones."""
    plain: Any = parse(minimal()).plain()
    assert plain["caption"]["top_p"] == 0.9
    assert plain["models"]["filter"]["itm_latest"] == 0.5
    assert "steps" not in plain["models"]["filter"]
