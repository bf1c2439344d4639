"""`capfilt doctor` as a user calls it: on what is well, and on every kind of trouble that it is there to find."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import capfilt as package
from capfilt.pipeline.storage import patience, storage_at
from tests.scenarios.cluster import Head, free_ports
from tests.scenarios.command import Ended, capfilt, here, write_recipe
from tests.store import BUCKET, Store

Lines = dict[str, dict[str, str]]


def lines(ended: Ended) -> Lines:
    """The findings by name; of several with one name the worst."""
    found: Lines = {}
    assert "Traceback" not in ended.said
    for line in json.loads(ended.out):
        assert bool(line["remedy"]) == (line["verdict"] != "ok"), line
        if line["verdict"] != "ok" or line["name"] not in found:
            found[line["name"]] = line
    return found


def of_nodes(ended: Ended) -> list[dict[str, str]]:
    return [line for line in json.loads(ended.out) if line["name"].startswith("node ")]


@pytest.fixture
def ask(tmp_path: Path, recipe: dict[str, Any]) -> Callable[..., Lines]:
    """Findings on a changed recipe, without a cluster: nobody listens at the address, which is a failure itself."""

    def ask(**changes: Any) -> Lines:
        path = write_recipe(tmp_path / "recipe.yaml", recipe, **{"name": "asked", **changes})
        before = patience.SECONDS
        ended = here("doctor", path, "--json", "--address", f"127.0.0.1:{free_ports(1)[0]}", expect=1)
        assert before == patience.SECONDS
        found = lines(ended)
        assert found["ray"]["verdict"] == "fail"
        assert "no connection to the Ray cluster" in found["ray"]["found"]
        return found

    return ask


def failed(found: Lines) -> set[str]:
    return {name for name, line in found.items() if line["verdict"] == "fail"} - {"ray"}


# -- this machine -----------------------------------------------------------------------------------------------


def test_all_is_well_with_a_recipe_that_runs(recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="well")
    ended = capfilt("doctor", path)
    told = [line.split()[:2] for line in ended.out.splitlines()]
    assert {verdict for verdict, _ in told} == {"ok"}, ended.out
    names = [name for _, name in told]
    assert names[:6] == ["python", "libraries", "recipe", "faiss", "torch", "temporary"]
    assert names[6:12] == ["output", "disk", "web", "human", "models.filter", "models.captioner"]
    assert names[12:] == ["plan", "ray", "placement", "node"]
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.yaml"]  # nothing is left of it


def test_both_faiss_are_a_failure_and_everything_else_is_still_looked_at(head: Head, tmp_path: Path):
    fake = tmp_path / "faiss_gpu-1.15.1.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: faiss-gpu\nVersion: 1.15.1\n")
    root = Path(package.__file__).parents[1]
    ended = capfilt("doctor", expect=1, **head.env, PYTHONPATH=f"{tmp_path}:{root}")
    bad = [line for line in ended.out.splitlines() if not line.startswith("ok ")]
    assert len(bad) == 2, ended.out
    assert bad[0].startswith("fail  faiss")
    assert "both faiss-cpu and faiss-gpu are installed" in bad[0]
    assert "remedy: pip uninstall faiss-cpu faiss-gpu" in bad[1]
    assert "ok    ray" in ended.out


def test_a_library_that_is_too_old_is_named_with_what_is_asked_for(head: Head, tmp_path: Path):
    fake = tmp_path / "duckdb-0.9.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: duckdb\nVersion: 0.9\n")
    root = Path(package.__file__).parents[1]
    ended = capfilt("doctor", "--json", expect=1, **head.env, PYTHONPATH=f"{tmp_path}:{root}")
    assert "duckdb 0.9 (asked for: >=2.0)" in lines(ended)["libraries"]["found"]


# -- the recipe -------------------------------------------------------------------------------------------------


def test_a_recipe_that_cannot_be_read_does_not_keep_the_machine_from_being_looked_at(ask: Any):
    found = ask(selct={})
    assert failed(found) == {"recipe"}
    assert "did you mean 'select'" in found["recipe"]["remedy"]
    assert found["torch"]["verdict"] == "ok"


def test_every_trouble_of_a_recipe_is_found_at_once(ask: Any, recipe: dict[str, Any], tmp_path: Path):
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "a.jpg").write_text("no image")
    (tmp_path / "noise" / "captions.csv").write_text("file,text\na.jpg,a dog\n")
    (tmp_path / "list.csv").write_text(
        "url,text\nhttp://127.0.0.1/a.jpg,a dog\nhttp://no.invalid/b.jpg,a cat\n"
    )
    (tmp_path / "empty").mkdir()
    models = recipe["models"]
    found = ask(
        web=[
            {"name": "gone", "format": "folder", "path": "gone"},
            {"name": "noise", "format": "folder", "path": "noise"},
            {"name": "list", "format": "urls", "path": "list.csv"},
        ],
        models={"filter": {"checkpoint": "./empty"}, "captioner": models["filter"]},
        select={"threshold": "calibrated"},
    )
    assert failed(found) == {
        *("web gone", "web noise", "dns", "calibration", "models.filter", "models.captioner")
    }
    assert "no such folder" in found["web gone"]["found"]
    assert "not an image in a known format" in found["web noise"]["found"]
    assert "0 of 2 hosts" in found["dns"]["found"]
    assert "127.0.0.1: private_address" in found["dns"]["found"]
    assert "no.invalid: " in found["dns"]["found"]
    assert "config.json" in found["models.filter"]["found"]
    assert "cannot serve as the captioner" in found["models.captioner"]["found"]
    assert "of 60 human images are for calibrating, needed: 20" in found["calibration"]["found"]


def test_a_image_that_does_not_decode_among_others_is_a_warning(
    ask: Any, crawl: Path, recipe: dict[str, Any], tmp_path: Path
):
    shutil.copytree(crawl / "crawl", tmp_path / "crawl")
    (tmp_path / "crawl" / "web-00001.jpg").write_bytes(b"\xff\xd8\xff cut off")
    found = ask(web={"format": "folder", "path": "crawl"})
    assert not failed(found)
    assert found["web"]["verdict"] == "warn"
    assert "15 of the first 16 rows are good" in found["web"]["found"]
    assert "web-00001.jpg" in found["web"]["found"]


def test_loopback_may_be_fetched_where_the_recipe_allows_it(ask: Any, tmp_path: Path):
    (tmp_path / "list.csv").write_text("url,text\nhttp://127.0.0.1:1234/a.jpg,a dog\n")
    found = ask(web={"path": "list.csv"}, fetch={"allow_private": ["127.0.0.0/8"]})
    assert not failed(found)
    assert found["dns"]["found"] == "1 of 1 hosts of the first urls can be asked"


def test_a_run_that_another_recipe_made_is_told(ask: Any, finished: Path):
    found = ask(name="finished", output=str(finished.parent), select={"threshold": 0.6})
    assert failed(found) == {"plan"}
    assert "select.stage.threshold differs" in found["plan"]["found"]
    assert "--fork" in found["plan"]["remedy"]


# -- storage ----------------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_told(ask: Any, small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    found = ask(output=str(small_disk / "runs"), shards={"target": "256MB"})
    assert failed(found) == {"output", "disk"}
    assert "less than one shard (256 MB)" in found["disk"]["found"]
    assert "Read-only file system" in found["output"]["found"]
    assert found["output"]["remedy"] == "mount it for writing, or give another output"


def test_a_store_is_written_and_nothing_is_left_there(ask: Any, store: Store):
    found = ask(output=f"s3://{BUCKET}/doctor")
    assert not failed(found)
    assert "put if absent" in found["output"]["found"]
    assert storage_at(f"s3://{BUCKET}/doctor").tree("") == []


def test_a_bucket_that_is_not_there_is_told(ask: Any, store: Store):
    found = ask(output="s3://no-such-bucket/runs")
    assert failed(found) == {"output"}
    assert "NoSuchBucket" in found["output"]["found"]
    assert "the bucket's name and the credentials" in found["output"]["remedy"]


def test_a_store_that_does_not_answer_is_told_in_time(
    ask: Any, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    found = ask(output=f"s3://{BUCKET}/doctor")
    assert "output" in failed(found)
    assert "the storage of the run fails" in found["output"]["found"]


# -- a cluster --------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(head: Head, tmp_path: Path) -> Iterator[None]:
    """A node with another disk where the output is, and with an older capfilt."""
    code, output = tmp_path / "code", tmp_path / "runs"
    shutil.copytree(Path(package.__file__).parent, code / "capfilt")
    with (code / "capfilt" / "stages" / "score.py").open("a") as older:
        older.write("# as it was\n")
    output.mkdir()
    mounted = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {output} && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], check=False).returncode:
        pytest.skip("this user may not have a mount of its own")
    with head.node(through=mounted, PYTHONPATH=str(code)):
        yield


def test_a_node_that_sees_another_folder_or_has_other_code_is_named(
    head: Head, elsewhere: None, recipe: dict[str, Any], tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="shared")
    ended = capfilt("doctor", path, "--json", expect=1, **head.env)
    good, *bad = of_nodes(ended)
    if good["verdict"] != "ok":
        *bad, good = of_nodes(ended)
    assert good["verdict"] == "ok", ended.out
    assert "sees the output and 21 files of sources and models" in good["found"]
    assert len({line["name"] for line in bad}) == 1
    code, storage = (line["found"] for line in bad)
    assert "its capfilt has other code" in code
    assert f"the worker cannot use {tmp_path / 'runs'}" in storage
    assert "it is another folder of the same name" in storage
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_stage_that_fits_no_node_is_named(head: Head, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="large", placement={"caption": {"gpus": 1000}})
    found = lines(capfilt("doctor", path, "--json", "--address", head.address, expect=1, **head.env))
    failed = {name for name, line in found.items() if line["verdict"] == "fail"}
    # a node may just have been killed
    assert {name for name in failed if not name.startswith("node ")} == {"placement"}
    assert (
        "no room for caption: 1 CPUs and 1000 GPUs: the largest have 2 CPU, 0 GPU"
        in found["placement"]["found"]
    )


@pytest.mark.parametrize("way", ["address", "dashboard"])
def test_a_wrong_token_is_refused_with_a_remedy(head: Head, way: str):
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    ended = capfilt("doctor", "--json", "--address", getattr(head, way), expect=1, **wrong)
    line = lines(ended)["ray" if way == "address" else "cluster"]
    assert line["verdict"] == "fail"
    assert "token" in line["remedy"]


def test_a_dashboard_is_asked_for_what_it_knows(head: Head, recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="sent")
    found = lines(capfilt("doctor", path, "--json", "--address", head.dashboard, **head.env))
    assert "2 CPUs, 0 GPUs" in found["cluster"]["found"]
    assert found["placement"]["verdict"] == "ok"
    assert found["nodes"]["verdict"] == "warn"
    assert "--address auto" in found["nodes"]["remedy"]
