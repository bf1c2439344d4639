import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from capfilt.data_contracts.errors import UsageError
from capfilt.pipeline.demo.crawl import MARKER, read_truth, write_demo
from capfilt.pipeline.demo.grammar import Verdict, truth
from tests.pipeline.demo.verdicts import web_verdicts


def write(out: Path, seed: int = 7, web: int = 100) -> Path:
    write_demo(out, seed, human=20, web=web)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "demo")


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(demo: Path, tmp_path: Path) -> None:
    assert digests(write(tmp_path / "again")) == digests(demo)
    assert digests(write(tmp_path / "other", seed=8)) != digests(demo)


@pytest.mark.parametrize(
    ("table", "columns", "count"),
    [
        ("human/captions.csv", ["file", "text"], 20),
        ("crawl/captions.csv", ["file", "text"], 100),
    ],
)
def test_each_table_lists_its_images(demo: Path, table: str, columns: list[str], count: int) -> None:
    listed = rows(demo / table)
    assert list(listed[0]) == columns
    assert len(listed) == count
    pictures = {path.name for path in (demo / table).parent.glob("*.jpg")}
    assert {row["file"] for row in listed} == pictures
    for name in pictures:
        with Image.open((demo / table).parent / name) as picture:
            picture.load()


def test_the_truth_read_back_judges_every_text_as_written(demo: Path) -> None:
    scenes = read_truth(demo)
    written = rows(demo / "truth.csv")
    assert len(scenes) == len(written) == 120
    for row in written:
        assert truth(scenes[row["file"]], row["text"]) == row["verdict"]
    for row in rows(demo / "human" / "captions.csv"):
        assert truth(scenes[row["file"]], row["text"]) is Verdict.MATCH
    texts = {row["file"]: row["text"] for row in written}
    for row in rows(demo / "crawl" / "captions.csv"):
        assert texts[row["file"]] == row["text"]


def test_the_crawl_holds_the_noise_it_is_said_to_hold(demo: Path) -> None:
    verdicts = web_verdicts(demo)
    assert (verdicts[Verdict.MATCH], verdicts[Verdict.PARTIAL], verdicts[Verdict.UNPARSABLE]) == (33, 12, 15)
    assert verdicts.total() == 100
    kinds = Counter(row["kind"] for row in rows(demo / "truth.csv") if row["set"] == "web")
    assert kinds == {"match": 33, "partial": 12, "swap": 25, "hard": 15, "boilerplate": 15}


def test_a_complete_demo_is_left_alone(tmp_path: Path) -> None:
    out = write(tmp_path)
    (out / "human" / "human-00000.jpg").write_bytes(b"touched")
    write(out)
    assert (out / "human" / "human-00000.jpg").read_bytes() == b"touched"


def test_an_interrupted_demo_is_written_again(demo: Path, tmp_path: Path) -> None:
    out = write(tmp_path)
    marker = json.loads((out / MARKER).read_text())
    (out / MARKER).write_text(json.dumps({**marker, "complete": False}))
    (out / "human" / "human-00000.jpg").write_bytes(b"half a pict")
    (out / "truth.csv").unlink()
    assert digests(write(out)) == digests(demo)


@pytest.mark.parametrize(
    ("seed", "web", "evidence"), [(8, 100, "seed: 7 there, 8 asked"), (7, 90, "web: 100")]
)
def test_another_demo_in_the_folder_is_refused(demo: Path, seed: int, web: int, evidence: str) -> None:
    before = digests(demo)
    with pytest.raises(UsageError, match=evidence):
        write(demo, seed, web)
    assert digests(demo) == before


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "human").mkdir()
    with pytest.raises(UsageError, match="not a demo folder"):
        write(tmp_path)


def test_the_artwork_is_attributed(demo: Path) -> None:
    text = (demo / "ATTRIBUTION.md").read_text("utf-8")
    assert "OpenMoji" in text
    assert "CC BY-SA 4.0" in text


def test_people_may_have_captioned_few_of_the_things_in_the_crawl(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", 7, human=60, web=60, human_concepts=8)
    scenes = read_truth(tmp_path / "demo")
    things = {
        folder: {
            thing for file, scene in scenes.items() if file.startswith(folder) for thing in scene.objects
        }
        for folder in ("human", "web")
    }
    assert len(things["human"]) == 8
    assert len(things["web"]) > 16
    with pytest.raises(UsageError, match="human_concepts: 8 there"):
        write_demo(tmp_path / "demo", 7, human=60, web=60)
    with pytest.raises(UsageError, match="cannot have captioned 25 concepts"):
        write_demo(tmp_path / "other", 7, human_concepts=25)
