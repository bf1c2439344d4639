import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.data_contracts.identity import image_id
from capfilt.data_contracts.records import HumanImage, Split
from capfilt.stages.dedup.embed_held_out import EmbedHeldOut
from capfilt.stages.dedup.evaluation_images import EvaluationImages
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import BroughtModel
from tests.stages.rows import FakeFilter, human, png, run_global, site

MODEL = BroughtModel("d", "model")


@pytest.fixture(autouse=True)
def _knowing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capfilt.models.open.open_filter", lambda *_: FakeFilter())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images as files, in Parquet (bytes and the struct of `datasets`), and in a tar."""
    out = tmp_path / "evaluation"
    (out / "deep").mkdir(parents=True)
    (out / "deep/1.png").write_bytes(png(1))
    (out / "readme.txt").write_text("no image")
    (out / "broken.jpg").write_bytes(b"no image")
    pq.write_table(pa.table({"image": [png(2), png(3)], "text": ["a", "b"]}), out / "a.parquet")
    struct = [{"bytes": png(4), "path": "4.png"}]
    pq.write_table(pa.table({"Image": struct}), out / "b.parquet")
    with tarfile.open(out / "c.tar", "w") as archive:
        for name, data in (("5.png", png(5)), ("5.txt", b"a caption")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out


def test_images_in_files_parquet_and_tars_are_embedded_and_others_are_noted(
    folder: Path, tmp_path: Path
) -> None:
    stage = EmbedHeldOut(MODEL, (EvaluationImages.of(str(folder)),))
    made, parts = run_global(stage, site(tmp_path, MODEL), MemoryInput({}))
    assert [row["image_id"] for row in made] == [image_id(png(n)) for n in (2, 3, 4, 5, 1)]
    assert made[0]["name"] == f"{folder}/a.parquet:0"
    assert made[3]["name"] == f"{folder}/c.tar:5.png"
    assert parts[0].notes[0].startswith("1 files are no image")  # type: ignore[union-attr]
    assert parts[0].units == 5  # type: ignore[union-attr]


def test_of_the_human_set_only_what_nothing_is_trained_on(tmp_path: Path) -> None:
    rows = [
        human(1, "a", split=Split.TRAIN),
        human(2, "b", split=Split.CALIBRATE),
        human(3, "c", split=Split.TEST),
    ]
    made, _ = run_global(EmbedHeldOut(MODEL), site(tmp_path, MODEL), MemoryInput.of(*rows))
    assert {row["name"] for row in made} == {"human calibrate 2.png", "human test 3.png"}
    none, _ = run_global(EmbedHeldOut(MODEL), site(tmp_path, MODEL), MemoryInput.of(empty=[HumanImage]))
    assert none == []


def test_a_path_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "texts.parquet")
    for name, evidence in (("empty", "holds none"), ("gone", "does not exist")):
        with pytest.raises(RecipeError, match="no image is there") as caught:
            EvaluationImages.of(str(tmp_path / name))
        assert evidence in caught.value.evidence
    with pytest.raises(RecipeError, match="has no column of images"):
        list(EvaluationImages.of(str(tmp_path / "texts.parquet")).images())


def test_more_images_than_go_through_the_model_at_once(tmp_path: Path) -> None:
    for number in range(70):
        (tmp_path / f"{number:03d}.png").write_bytes(png(number))
    stage = EmbedHeldOut(MODEL, (EvaluationImages.of(str(tmp_path)),))
    made, _ = run_global(stage, site(tmp_path, MODEL), MemoryInput({}))
    assert [row["image_id"] for row in made] == [image_id(png(number)) for number in range(70)]
