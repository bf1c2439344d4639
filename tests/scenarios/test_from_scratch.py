"""A recipe that trains every model itself, with the threshold set from human pairs."""

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from tests.scenarios.command import capfilt, here, snapshot, table, write_recipe

COLOURS = {
    "red": (220, 30, 30),
    "green": (20, 160, 40),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 20),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
HUMAN, WEB = 280, 60


def write_colours(folder: Path, count: int, seed: int, noise: float) -> None:
    """Pictures of one colour and captions that name it; a share of the captions names another one."""
    rng = Random(seed)
    folder.mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "text"])
        for number in range(count):
            name = rng.choice(sorted(COLOURS))
            shade = tuple(min(255, max(0, value + rng.randint(-14, 14))) for value in COLOURS[name])
            image = Image.new("RGB", (40, 40), shade)
            image.putpixel((rng.randrange(40), rng.randrange(40)), (number % 256, number // 256, 0))
            image.save(folder / f"{name}-{number:04d}.png")
            said = rng.choice(sorted(COLOURS.keys() - {name})) if rng.random() < noise else name
            rows.writerow(
                [f"{name}-{number:04d}.png", rng.choice(["a {} image", "all of it is {}"]).format(said)]
            )


@pytest.fixture(scope="module")
def run(head: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    write_colours(folder / "human", HUMAN, 1, noise=0.0)
    write_colours(folder / "web", WEB, 2, noise=0.5)
    quick = {"batch": 16, "lr": 1e-3, "warmup": 5}
    recipe = {
        "name": "scratch",
        "human": {"format": "folder", "path": "human"},
        "web": {"format": "folder", "path": "web"},
        "models": {
            "init": "tiny",
            "tokenizer": "wordpiece:300",
            "warmup": {**quick, "words": 6, "steps": 20},
            "pretrain": {**quick, "steps": 30},
            "filter": {**quick, "steps": 40},
            "captioner": {**quick, "steps": 10},
        },
        "caption": {"min_tokens": 2, "max_tokens": 8},
        "shards": {"target": "6KB"},
        "placement": {stage: {"threads": 1} for stage in ("warmup", "pretrain", "filter", "captioner")},
    }
    capfilt("run", write_recipe(folder / "recipe.yaml", recipe), **head.env)
    return folder / "runs" / "scratch"


def test_every_training_leaves_a_curve_and_a_model(run: Path):
    for stage, steps in (("warmup", 20), ("pretrain", 30), ("filter", 40), ("captioner", 10)):
        assert table(run, stage)["step"].to_pylist() == list(range(1, steps + 1))
        names = {path.name for path in (run / "models" / stage).iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names


def test_the_threshold_comes_from_the_calibrate_split(run: Path):
    figures = {row["name"]: row for row in table(run, "calibrate").to_pylist()}
    split = table(run, "human")["split"].to_pylist().count("calibrate")
    assert split >= 20
    assert f"from {split} calibrate images" in figures["threshold"]["note"]
    assert set(table(run, "select")["threshold"].to_pylist()) == {figures["threshold"]["value"]}


def test_figures_come_from_the_test_split(run: Path):
    figures = {row["name"]: row["value"] for row in table(run, "evaluate").to_pylist()}
    assert figures["test_images"] == table(run, "human")["split"].to_pylist().count("test")
    assert {"filter_auc", "caption_cider", "chance_cider"} <= figures.keys()
    assert figures["filter_auc"] > 0.6


def test_the_cleaned_web_texts_are_cleaner_than_the_crawl(run: Path):
    urls = {row["row_id"]: row["url"] for row in table(run, "ingest").to_pylist()}
    judged = [row for row in table(run, "score").to_pylist() if row["source"] == "web"]
    true = {row["pair_id"]: urls[row["row_id"]].split("-")[0] in row["text"] for row in judged}
    kept = [row["pair_id"] for row in table(run, "export").to_pylist() if row["source"] == "web"]
    assert len(kept) > 5
    assert sum(true[pair] for pair in kept) / len(kept) > sum(true.values()) / len(true) + 0.15


def test_the_report_says_what_was_measured(run: Path):
    report = json.loads((run / "report.json").read_text())
    assert report["complete"]
    assert report["exported"]["human"] == HUMAN
    auc = report["evaluation"]["filter_auc"]
    assert 0.5 < auc["low"] <= auc["value"] <= auc["high"] <= 1.0
    assert any("test images: every figure has a wide error" in warning for warning in report["warnings"])


def test_a_human_set_too_small_to_calibrate_is_refused(head: Any, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="small", select={"threshold": "calibrated"})
    ended = capfilt("run", path, expect=1, **head.env)
    assert "the human set is too small to set a threshold from" in ended.err
    assert "needed: 20" in ended.err
    assert "bring 300 human images or more, or set select.threshold to a number" in ended.err
    assert "Traceback" not in ended.err


def test_human_captions_that_know_the_webs_words_need_no_rehearsal(run: Path):
    words = {row["word"]: row["covered"] for row in table(run, "word_coverage").to_pylist()}
    assert set(words) & set(COLOURS)
    assert all(words.values())
    assert table(run, "rank_web").num_rows == table(run, "screen_web").num_rows == 0


def test_rehearsal_that_is_on_aligns_and_vets_every_web_text(head: Any, run: Path):
    recipe = run.parent.parent / "recipe.yaml"
    capfilt(
        *("run", recipe, "--fork", "rehearsed", "--set", "models.rehearsal=on", "--until", "screen_web"),
        **head.env,
    )
    fork = run.parent / "rehearsed"
    texts = {row["row_id"]: row["texts"] for row in table(run, "ingest").to_pylist()}
    screened, ranked = table(fork, "screen_web"), table(fork, "rank_web")
    assert screened["row_id"].to_pylist() == sorted(texts) == ranked["row_id"].to_pylist()
    assert all(row["text"] in texts[row["row_id"]] for row in screened.to_pylist())
    assert set(screened["source"].to_pylist()) == {"web"}
    assert len(set(ranked["itc"].to_pylist())) > WEB / 2


def test_the_filter_has_a_report_card(run: Path):
    card = json.loads(here("report-card", run, "--json").out)
    assert card == json.loads((run / "report.json").read_text())["filter"]
    assert card["test_images"] == table(run, "human")["split"].to_pylist().count("test")
    assert {"shuffled", "hard", "attribute"} <= card["auc"].keys()
    assert card["threshold"]["low"] is None  # even odds
    assert card["test_images"] < 20
    assert card["crawl"] == {}  # of so few nothing is said of the crawl
    assert "ITM probability at even odds" in here("report-card", run).said
    assert "## How far the filter can be trusted" in (run / "export/README.md").read_text()


def test_another_target_is_a_fork_that_runs_no_model(run: Path, head: Any):
    recipe = run.parent.parent / "recipe.yaml"
    capfilt("run", recipe, "--fork", "lenient", "--set", "select.threshold={recall: 0.95}", **head.env)
    fork = run.parent / "lenient"
    assert {part.split("/")[0] for part in snapshot(fork)} == {"calibrate", "select", "export"}
    own = [
        row["itm"]
        for row in table(run, "score_held_out").to_pylist()
        if (row["split"], row["kind"]) == ("calibrate", "own")
    ]
    threshold = table(fork, "select")["threshold"][0].as_py()
    assert sum(itm >= threshold for itm in own) / len(own) >= 0.95
    assert threshold == max(itm for itm in own if sum(other >= itm for other in own) / len(own) >= 0.95)


def test_a_target_out_of_reach_ends_the_run_before_anything_is_dropped(run: Path, head: Any):
    recipe = run.parent.parent / "recipe.yaml"
    target = ("--set", "select.threshold={precision: 0.99999}")
    ended = capfilt("run", recipe, "--fork", "perfect", *target, expect=1, **head.env)
    assert "the filter cannot reach a precision of 0.99999" in ended.err
    assert "Traceback" not in ended.err
    assert not list((run.parent / "perfect").glob("select/part-*.parquet"))


def test_a_human_set_that_says_one_thing_stops_the_run_before_anything_is_dropped(head: Any, tmp_path: Path):
    write_colours(tmp_path / "human", 60, 1, noise=0.0)
    write_colours(tmp_path / "web", 20, 2, noise=0.5)
    captions = tmp_path / "human/captions.csv"
    files = [line.split(",")[0] for line in captions.read_text().splitlines()[1:]]
    captions.write_text("file,text\n" + "".join(f"{file},a red image\n" for file in files))
    recipe = {
        "name": "same",
        "human": {"format": "folder", "path": "human"},
        "web": {"format": "folder", "path": "web"},
        "models": {
            "init": "tiny",
            "tokenizer": "wordpiece:300",
            "pretrain": {"batch": 16, "steps": 5},
            "filter": {"steps": 5},
            "captioner": {"steps": 5},
        },
        "select": {"threshold": 0.5},
    }
    ended = capfilt("run", write_recipe(tmp_path / "recipe.yaml", recipe), expect=1, **head.env)
    assert "the human captions say the same of most images" in ended.err
    assert "images have the caption 'a red image'" in ended.err
    assert "Traceback" not in ended.err
    for stage in ("pretrain", "filter", "captioner", "caption", "score", "select", "export"):
        assert not list((tmp_path / "runs/same").glob(f"{stage}/part-*.parquet"))


def test_what_a_run_has_cleaned_joins_the_pretraining_of_the_next(run: Path, head: Any):
    recipe = run.parent.parent / "recipe.yaml"
    changes = (f"models.pretrain.from_run={run}", "models.pretrain.steps=5", "name=second")
    sets = [word for change in changes for word in ("--set", change)]
    capfilt("run", recipe, *sets, "--until", "pretrain", **head.env)
    second = run.parent / "second"
    cleaned = table(second, "cleaned").to_pylist()
    exported = [row for row in table(run, "export").to_pylist() if row["split"] not in ("calibrate", "test")]
    assert sum(len(row["texts"]) for row in cleaned) == len(exported)
    assert {source for row in cleaned for source in row["sources"]} == {row["source"] for row in exported}
    assert (
        f"on {len(cleaned)} that another run has cleaned"
        in (second / "models/pretrain/README.md").read_text()
    )


def test_a_run_is_searched_by_its_filter_or_by_whichever_of_its_models_indexed_it(run: Path):
    on = (run, "--stage", "ingest")
    made = json.loads(here("index", *on, "--json").out)
    assert made["model"] == str(run / "models/filter")
    for model in ("filter", "pretrain"):
        here("index", *on, "--model", run / "models" / model)
        assert len(json.loads(here("search", *on, "--text", "a red image", "--json").out)) == 10


def test_a_crawl_that_a_model_learns_by_heart_is_said_while_it_runs_and_in_the_report(run: Path, head: Any):
    recipe = run.parent.parent / "recipe.yaml"
    sets = ("--set", "models.pretrain.steps=60", "--set", "models.pretrain.human_share=0")
    capfilt("run", recipe, "--fork", "heart", *sets, "--until", "pretrain", **head.env)
    said = f"Pretraining sees each of the {WEB} web images 16 times"
    assert said in here("logs", run.parent / "heart").out
    assert said in here("report", run.parent / "heart").out
    assert "times" not in "".join(json.loads((run / "report.json").read_text())["warnings"])
