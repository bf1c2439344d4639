import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import CapfiltError, RecipeError, SourceError
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.load import parse
from capfilt.stages.training.start import Parents

Make = Callable[..., Plan]


def _id(value: object) -> str:
    """A test's name must not depend on the order of a set, which differs between processes."""
    return str(sorted(value)) if isinstance(value, set) else str(value)


def crawl(folder: Path) -> None:
    for name in ("web", "human"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"x")
        (folder / name / "captions.csv").write_text("file,text\na.png,a dog\n")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A plan of a recipe whose models are trained from random weights, with ``a.b`` keys changed."""
    crawl(tmp_path / "data")

    def plan(data: Path = tmp_path / "data", **changes: Any) -> Plan:
        values: dict[str, Any] = {
            "name": "run",
            "output": str(tmp_path),
            "web": {"format": "folder", "path": str(data / "web")},
            "human": {"format": "folder", "path": str(data / "human")},
            "models": {
                "init": "tiny",
                "tokenizer": "wordpiece:100",
                "warmup": {},
                "pretrain": {},
                "filter": {},
            },
        }
        values["models"]["captioner"] = {}
        for key, value in changes.items():
            place = values
            *above, last = key.split("__")
            for name in above:
                place = place.setdefault(name, {})
            place[last] = value
        return Plan(parse(values))

    return plan


def prints(plan: Plan) -> dict[str, str]:
    return {node.name: node.fingerprint for node in plan}


def changed(before: Plan, after: Plan) -> set[str]:
    old, new = prints(before), prints(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


AFTER_SELECT = {"select", "export"}
AFTER_CAPTION = {"caption", "score"} | AFTER_SELECT
AFTER_FILTER = {
    "filter",
    "screen_web",
    "captioner",
    "score_held_out",
    "calibrate",
    "audit_captions",
    "evaluate",
} | AFTER_CAPTION
AFTER_PRETRAIN = AFTER_FILTER | {"pretrain", "rank_web"}
UNIQUE = {"embed", "embed_held_out", "dedup"}


def test_the_stages_come_in_an_order_in_which_they_can_run(make: Make) -> None:
    plan = make()
    seen: set[str] = set()
    for node in plan:
        assert set(node.needs) <= seen, node.name
        seen.add(node.name)
    assert {"ingest", "export"} < seen
    assert plan.nodes["score"].needs == ("ingest", "caption", "filter")
    assert plan.nodes["export"].upstream == ("ingest", "human", "score", "select")


def test_the_same_recipe_gives_the_same_fingerprints(make: Make) -> None:
    assert changed(make(), make()) == set()
    assert len(set(prints(make()).values())) == len(prints(make()))


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"select__rule": "best"}, AFTER_SELECT),
        ({"select__threshold": 0.5}, {"calibrate"} | AFTER_SELECT),
        ({"select__threshold": {"keep_fraction": 0.5}}, {"calibrate", "threshold"} | AFTER_SELECT),
        ({"select__threshold": {"precision": 0.9}}, {"calibrate"} | AFTER_SELECT),
        ({"select__threshold": {"recall": 0.9}}, {"calibrate"} | AFTER_SELECT),
        ({"export__images": "reference"}, {"export"}),
        ({"export__images": "ids"}, {"export"}),
        ({"images__placeholder": 0}, {"placeholders"} | AFTER_SELECT),
        ({"images__placeholder": 11}, {"placeholders"} | AFTER_SELECT),
        (
            {"images__max_aspect": 3},
            {"human", "ingest", "placeholders", "tokenizer", "warmup", "word_coverage"} | AFTER_PRETRAIN,
        ),
        (
            {"texts__rules": ["url"]},
            {"ingest", "placeholders", "tokenizer", "warmup", "word_coverage"} | AFTER_PRETRAIN,
        ),
        ({"texts__rules": ["url", "boilerplate", "file_name", "url"]}, set()),  # all of them, in any order
        ({"caption__top_p": 0.8}, {"audit_captions", "evaluate"} | AFTER_CAPTION),
        ({"caption__guard": {"repeats": 0}}, AFTER_CAPTION),
        ({"caption__guard": {"min_words": 2, "prompt_echo": True}}, set()),  # its defaults
        ({"models__filter": {"steps": 3}}, AFTER_FILTER),
        ({"models__captioner": {"lr": 0.1}}, {"captioner", "audit_captions", "evaluate"} | AFTER_CAPTION),
        ({"models__pretrain": {"steps": 3}}, AFTER_PRETRAIN),
        ({"models__pretrain": None}, AFTER_PRETRAIN),
        ({"models__tokenizer": "wordpiece:99"}, {"tokenizer", "warmup"} | AFTER_PRETRAIN),
        ({"seed": 1}, {"warmup"} | AFTER_PRETRAIN),
        (
            {"shards__target": 10},
            {"list_web", "list_human", "human", "ingest", "placeholders", "tokenizer", "warmup"}
            | {"word_coverage"}
            | AFTER_PRETRAIN,
        ),
        ({"dedup": {}}, UNIQUE | AFTER_CAPTION),
        ({"select__balance": {"cap": 10}}, {"balance", "export"}),
        ({"placement": {"caption": {"gpus": 1, "batch": 3}, "score": {"actors": 9}}}, set()),
        ({"name": "other", "output": "/elsewhere"}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_change_reaches_its_own_stage_and_those_after_it(
    make: Make, change: dict[str, Any], stages: set[str]
) -> None:
    assert changed(make(), make(**change)) == stages


def test_of_a_list_of_urls_patience_is_no_identity_and_what_may_be_fetched_is(
    make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "urls.csv"
    path.write_text("url,text\nhttp://a.org/1.jpg,a dog\n")
    listed = partial(make, web={"format": "urls", "path": str(path)})
    patient = {"timeout": 60, "threads": 4, "user_agent": "other/1", "preflight": 7, "shard_deadline": 9}
    assert changed(listed(), listed(fetch=patient)) == set()
    fetched = {"ingest", "placeholders", "tokenizer", "warmup", "preflight", "word_coverage"} | AFTER_PRETRAIN
    assert changed(listed(), listed(fetch={"max_bytes": 7})) == fetched
    (tmp_path / "gone.txt").write_text("a.org\n")
    gone = str(tmp_path / "gone.txt")
    assert changed(listed(), listed(fetch={"takedown": gone})) == fetched
    assert changed(listed(), listed(export={"takedown": gone})) == {"export"}
    assert changed(make(), make(fetch={"max_bytes": 7})) == set()  # nothing is fetched there


def test_moved_sources_are_the_same_sources_and_other_content_is_not(make: Make, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    before = make()
    assert changed(before, make(tmp_path / "moved")) == set()
    (tmp_path / "moved/web/captions.csv").write_text("file,text\na.png,a cat\n")
    after = changed(before, make(tmp_path / "moved"))
    assert {"list_web", "ingest", "tokenizer", "export"} <= after
    assert after.isdisjoint({"list_human", "human"})


def test_the_identity_says_which_field_it_was(make: Make) -> None:
    identity = make(select__rule="best").nodes["select"].identity
    assert identity["stage"]["rule"] == "best"
    assert identity["reads"] == {"Score": "Score/1", "Metric": "Metric/1", "Placeholder": "Placeholder/1"}
    assert identity["writes"] == "Decision/1"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"human": ()}, RecipeError, "needs human pairs"),
        ({"models__init": None}, RecipeError, "from what?"),
        ({"models__init": "tniy"}, CapfiltError, "tniy"),
        ({"models__tokenizer": "bpe"}, RecipeError, "bpe is no tokenizer"),
        ({"models__warmup": {"images": "/nowhere"}}, RecipeError, "needs both"),
        ({"models__filter": {"checkpoint": "/nowhere"}}, CapfiltError, "/nowhere"),
        ({"web": {"format": "folder", "path": "/nowhere"}}, SourceError, "no such folder"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_refused_before_anything_runs(
    make: Make, change: dict[str, Any], error: type[CapfiltError], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(**change)


def brought(filter: Path, captioner: Path, **filter_keys: Any) -> dict[str, Any]:
    return {
        "models": {
            "filter": {"checkpoint": str(filter), **filter_keys},
            "captioner": {"checkpoint": str(captioner)},
        }
    }


def test_checkpoints_are_identity_by_content_not_by_place(
    make: Make, blip_filter: Path, blip_captioner: Path, tmp_path: Path
) -> None:
    before = make(**brought(blip_filter, blip_captioner))
    assert prints(before).keys().isdisjoint({"filter", "captioner", "tokenizer", "warmup", "pretrain"})
    moved = shutil.copytree(blip_filter, tmp_path / "moved")
    assert changed(before, make(**brought(moved, blip_captioner))) == set()
    with (moved / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x99")
    assert (
        changed(before, make(**brought(moved, blip_captioner)))
        == {"score_held_out", "calibrate", "audit_captions", "evaluate", "score"} | AFTER_SELECT
    )


def test_two_checkpoints_and_a_number_need_no_human_set(
    make: Make, blip_filter: Path, blip_captioner: Path
) -> None:
    plan = make(**brought(blip_filter, blip_captioner), human=(), select__threshold=0.5)
    assert list(plan.nodes) == [
        *("list_web", "ingest", "placeholders", "caption", "score", "select", "export")
    ]


def test_blip_checkpoints_are_finetuned_and_started_from(
    make: Make, blip_filter: Path, blip_captioner: Path
) -> None:
    finetuned = make(**brought(blip_filter, blip_captioner, steps=5))
    assert {"filter"} <= finetuned.nodes.keys()
    with pytest.raises(CapfiltError, match="cannot serve as the captioner"):
        make(models__init=str(blip_filter))


def test_a_model_may_start_from_two_parents(make: Make, tmp_path: Path) -> None:
    for family in ("vit", "bert"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "config.json").write_text(json.dumps({"model_type": family}))
        (tmp_path / family / "model.safetensors").write_text(family)
    parents = {"vision": str(tmp_path / "vit"), "text": str(tmp_path / "bert")}
    with pytest.raises(CapfiltError, match="is not a vit model"):
        make(models__init={"vision": parents["text"], "text": parents["text"]})
    plan = make(models__init=parents)
    start = plan.nodes["warmup"].stage.start
    assert isinstance(start, Parents)
    assert start.vision.digest != start.text.digest
    assert "tokenizer" not in plan.nodes


def test_how_models_compute_is_identity_of_what_they_judge(make: Make) -> None:
    def computed(**how: Any) -> set[str]:
        return changed(make(models__precision="fp32"), make(**how))

    literal = {"models__rehearsal": "off", "models__precision": "fp32"}
    judging = {
        "score_held_out",
        "calibrate",
        "audit_captions",
        "evaluate",
        "caption",
        "score",
        "select",
        "export",
    }
    assert changed(make(**literal), make(**literal | {"models__precision": "bf16"})) == judging
    assert changed(make(**literal), make(**literal, models__itm_token="cls")) == judging
    # and of what a training reads that follows from a judgement; the encoders know no ITM token
    assert computed(models__precision="bf16") == judging | {"rank_web", "filter", "screen_web", "captioner"}
    assert computed(models__precision="fp32", models__itm_token="cls") == judging | {
        "screen_web",
        "captioner",
    }


def test_a_checkpoint_of_another_family_is_not_finetuned(
    make: Make, blip_captioner: Path, adapter_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(RecipeError, match="finetuning starts from BLIP checkpoints and models that capfilt"):
        make(**brought(adapter_checkpoint("clip"), blip_captioner, steps=5))


def test_captions_go_on_from_the_captioners_own_prompt_unless_the_recipe_says_one(
    make: Make, blip_filter: Path, blip_captioner: Path, adapter_checkpoint: Callable[[str], Path]
) -> None:
    def prompt(captioner: Path, **caption: Any) -> str:
        plan = make(**brought(blip_filter, captioner), caption=caption)
        return plan.nodes["caption"].stage.decoding.prompt  # type: ignore[attr-defined, no-any-return]

    git = adapter_checkpoint("git")
    assert (prompt(blip_captioner), prompt(git)) == ("a picture of", "")
    assert prompt(git, prompt="two of") == prompt(blip_captioner, prompt="two of") == "two of"
    assert prompt(blip_captioner, prompt="") == ""


def test_a_filter_without_a_probability_takes_no_number_as_threshold(
    make: Make, blip_captioner: Path, adapter_checkpoint: Callable[[str], Path]
) -> None:
    clip, siglip = adapter_checkpoint("clip"), adapter_checkpoint("siglip")
    with pytest.raises(RecipeError, match="a number needs a filter that gives the probability") as caught:
        make(**brought(clip, blip_captioner), select__threshold=0.5)
    assert "is a clip model" in caught.value.evidence
    assert "keep_fraction" in caught.value.remedy
    make(**brought(clip, blip_captioner), select__threshold={"keep_fraction": 0.3})
    make(**brought(clip, blip_captioner), select__threshold="calibrated")
    make(**brought(siglip, blip_captioner), select__threshold=0.5)


def test_a_format_that_is_recognised_is_the_same_plan_as_one_that_is_given(
    make: Make, tmp_path: Path
) -> None:
    given = make()
    assert changed(given, make(web={"path": str(tmp_path / "data/web")})) == set()
    (tmp_path / "data/web/captions.csv").rename(tmp_path / "data/web/other.csv")
    with pytest.raises(SourceError, match="it is not clear what"):
        make(web={"path": str(tmp_path / "data/web")})


def test_a_list_of_urls_is_planned_by_its_content_and_its_rows_a_shard(make: Make, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,text\nhttp://a,b\n")
    keys = {"format": "urls", "path": str(tmp_path / "list.csv")}
    plan = make(web=keys)
    assert changed(plan, make(web=keys)) == set()
    assert "list_web" in changed(plan, make(web=keys, shards__rows=5))
    assert "list_web" in changed(plan, make(web={**keys, "keep_columns": ["text"]}))
    (tmp_path / "list.csv").write_text("url,text\nhttp://a,c\n")
    assert "list_web" in changed(plan, make(web=keys))


REHEARSAL = {"rank_web", "screen_web"}


def test_the_filter_rehearses_on_what_pretraining_aligned_and_the_captioner_on_what_the_filter_kept(
    make: Make,
) -> None:
    plan = make()
    order = [
        name
        for name in plan.nodes
        if name in {"pretrain", "word_coverage", "filter", "captioner"} | REHEARSAL
    ]
    assert order == ["pretrain", "word_coverage", "rank_web", "filter", "screen_web", "captioner"]
    nodes = plan.nodes
    assert nodes["rank_web"].needs == ("ingest", "word_coverage", "pretrain")
    assert nodes["filter"].upstream == ("human", "ingest", "rank_web")
    assert nodes["screen_web"].needs == ("ingest", "word_coverage", "filter")
    assert nodes["captioner"].upstream == ("human", "ingest", "screen_web")
    for name in ("filter", "captioner"):
        assert nodes[name].stage.rehearsal  # type: ignore[attr-defined]
    on = make(models__rehearsal="on")
    assert prints(make(models__rehearsal=True)) == prints(on)
    assert changed(plan, on) == AFTER_FILTER | {"rank_web"}


@pytest.mark.parametrize("off", ["off", False])
def test_blips_own_order_is_one_key_away(make: Make, off: object) -> None:
    plan = make(models__rehearsal=off)
    assert REHEARSAL.isdisjoint(plan.nodes)
    for name in ("filter", "captioner"):
        assert plan.nodes[name].upstream == ("human",)
        assert not plan.nodes[name].stage.rehearsal  # type: ignore[attr-defined]
    assert plan.nodes["word_coverage"].upstream == (
        "human",
        "ingest",
    )  # for the report alone: nothing comes after it
    assert not [node.name for node in plan if "word_coverage" in node.needs]
    assert changed(plan, make(models__rehearsal="off", select__threshold=0.5)) == {"calibrate"} | AFTER_SELECT


def test_without_a_pretrained_model_there_is_nothing_to_rehearse_by(
    make: Make, blip_filter: Path, blip_captioner: Path, adapter_checkpoint: Callable[[str], Path]
) -> None:
    def stages(**changes: Any) -> set[str]:
        return REHEARSAL & make(**changes).nodes.keys()

    assert stages(models__pretrain=None) == set()
    assert stages(**brought(blip_filter, blip_captioner)) == set()
    assert "word_coverage" not in make(**brought(blip_filter, blip_captioner)).nodes
    assert stages(**brought(blip_filter, blip_captioner, steps=5)) == {"rank_web"}
    # a captioner that is trained here rehearses on what any filter keeps that gives a probability
    assert stages(models__filter={"checkpoint": str(blip_filter)}) == {"screen_web"}
    assert stages(models__filter={"checkpoint": str(adapter_checkpoint("clip"))}) == set()


@pytest.mark.parametrize("run", ["/nowhere", "s3://bucket/run"])
def test_a_parent_that_cannot_be_read_is_refused(make: Make, run: str) -> None:
    with pytest.raises(CapfiltError, match=r"is not a run|has to be a folder"):
        make(models__pretrain={"from_run": run})


def test_only_a_precision_waits_for_the_scores_of_the_crawl(make: Make) -> None:
    def calibrate(threshold: object) -> tuple[str, ...]:
        return make(select__threshold=threshold).nodes["calibrate"].needs

    assert calibrate("calibrated") == calibrate({"recall": 0.9}) == ("score_held_out",)
    assert calibrate({"precision": 0.9}) == ("score_held_out", "score")


DEDUPED = {"dedup": {}}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"dedup__similarity": 0.9}, {"dedup"} | AFTER_CAPTION),
        ({"dedup__merge_texts": True}, {"dedup"} | AFTER_CAPTION),
        ({"dedup__memory": "1GB"}, set()),
        ({"dedup__search": "exact"}, {"dedup"} | AFTER_CAPTION),
        ({"models__filter": {"steps": 3}}, AFTER_FILTER),  # the pretrained model embeds
        ({"models__pretrain": {"steps": 3}}, UNIQUE | AFTER_PRETRAIN),
        ({"models__pretrain": None}, UNIQUE | AFTER_PRETRAIN),
        ({"decontaminate": [str(Path(__file__).parents[1] / "none")]}, None),
    ],
    ids=_id,
)
def test_a_change_of_deduplication_reaches_what_comes_after_it(
    make: Make, change: dict[str, Any], stages: set[str] | None
) -> None:
    if stages is None:
        with pytest.raises(RecipeError, match="no image is there"):
            make(**DEDUPED, **change)
    else:
        assert changed(make(dedup={}), make(**{"dedup": {}, **change})) == stages


def test_what_is_unique_is_known_before_anything_is_captioned(make: Make) -> None:
    plan = make(dedup={"merge_texts": True})
    assert plan.nodes["embed"].needs == ("ingest", "pretrain")
    assert plan.nodes["dedup"].upstream == ("embed", "embed_held_out", "ingest")
    assert plan.nodes["caption"].upstream == ("ingest", "dedup")
    assert plan.nodes["score"].upstream == ("ingest", "caption", "dedup")
    assert plan.nodes["embed_held_out"].upstream == ("human",)
    assert make(dedup={}).nodes["dedup"].upstream == ("embed", "embed_held_out")
    assert UNIQUE.isdisjoint(make().nodes)
    assert make(dedup={}, models__pretrain=None).nodes["embed"].needs == ("ingest", "filter")


def test_evaluation_sets_are_known_by_their_content(make: Make, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/a.png").write_bytes(b"x")
    plan = make(decontaminate=str(tmp_path / "test"))
    assert {"embed", "embed_held_out", "dedup"} <= plan.nodes.keys()
    assert plan.nodes["dedup"].identity["stage"]["duplicates"] is False
    shutil.copytree(tmp_path / "test", tmp_path / "moved" / "test")
    assert changed(plan, make(decontaminate=[str(tmp_path / "moved" / "test")])) == set()
    (tmp_path / "test/b.png").write_bytes(b"y")
    assert (
        changed(plan, make(decontaminate=[str(tmp_path / "test")]))
        == {"embed_held_out", "dedup"} | AFTER_CAPTION
    )


def test_a_model_for_deduplication_that_cannot_embed_is_refused(
    make: Make, blip_captioner: Path, blip_filter: Path
) -> None:
    with pytest.raises(CapfiltError, match="cannot serve as the filter"):
        make(dedup={"model": str(blip_captioner)})
    plan = make(dedup={"model": str(blip_filter)})
    assert plan.nodes["embed"].needs == ("ingest",)


def test_words_that_cannot_be_read_are_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(" \n")
    for path in ("words.txt", "gone.txt"):
        with pytest.raises(RecipeError, match="is not a list of words"):
            make(select__balance={"cap": 2, "words": str(tmp_path / path)})


@pytest.mark.parametrize(
    ("stage", "near"), [("captoin", "caption"), ("list_wbe", "list_web"), ("threshold", "'")]
)
def test_a_stage_that_is_placed_has_to_be_in_the_plan(make: Make, stage: str, near: str) -> None:
    """`threshold` is a stage of other recipes: of this one its placement would go unheard."""
    with pytest.raises(RecipeError, match=f"placement.{stage}: the plan has no such stage") as caught:
        make(placement={stage: {"batch": 1}})
    assert near in caught.value.remedy
    assert "caption" in caught.value.evidence
