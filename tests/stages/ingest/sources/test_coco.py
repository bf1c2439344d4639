import json
from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.stages.ingest.sources import coco
from capfilt.stages.ingest.sources.source import SourceSpec
from tests.stages.ingest.sources.listed import listed, read_all, texts


def write(folder: Path, found: Any, *images: str) -> SourceSpec:
    (folder / "images").mkdir(exist_ok=True)
    for image in images:
        (folder / "images" / image).write_bytes(image.encode())
    (folder / "captions.json").write_text(found if isinstance(found, str) else json.dumps(found))
    return SourceSpec("human", "coco", str(folder / "images"), str(folder / "captions.json"))


def captions(*pairs: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"id": number, "image_id": image, "caption": text} for number, (image, text) in enumerate(pairs)]


def image(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 5, "license": 3}


def test_every_image_has_its_captions_and_its_bytes(tmp_path: Path) -> None:
    found = {
        "images": [image(7, "b.jpg"), image(3, "a.jpg"), image(9, "bare.jpg")],
        "annotations": captions((3, "one "), (7, "two"), (3, "three"), (99, "of nothing")),
    }
    spec = write(tmp_path, found, "a.jpg", "b.jpg", "bare.jpg")
    assert texts(spec) == {"b.jpg": ["two"], "a.jpg": ["one", "three"], "bare.jpg": []}
    assert read_all(spec) == {name: name.encode() for name in ("a.jpg", "b.jpg", "bare.jpg")}
    assert listed(spec)[1] == ("1 captions in captions.json are of no image in it and are left out",)


def test_an_image_that_is_not_there_and_one_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    names = ["../secret", str(tmp_path / "secret"), "gone.jpg"]
    spec = write(tmp_path, {"images": [image(*one) for one in enumerate(names)], "annotations": []})
    problems = {row["url"]: row["problem"] for row in listed(spec)[0]}
    assert ["outside" in str(problems[name]) for name in names] == [True, True, False]
    assert read_all(spec) == {}


def test_columns_of_the_image_go_along(tmp_path: Path) -> None:
    spec = write(tmp_path, {"images": [image(1, "a.jpg")], "annotations": []}, "a.jpg")
    kept = SourceSpec("human", "coco", spec.path, spec.captions, keep_columns=("license", "coco_url"))
    assert listed(kept)[0][0]["extra"] == '{"license": 3, "coco_url": null}'


@pytest.mark.parametrize(
    "found",
    [
        "{",
        "[]",
        '{"images": []}',
        {"images": [{"id": 1}], "annotations": []},
        {"images": [1], "annotations": []},
    ],
)
def test_a_file_that_is_no_coco(tmp_path: Path, found: Any) -> None:
    with pytest.raises(SourceError, match="is no COCO caption file"):
        listed(write(tmp_path, found))


def test_the_caption_file_has_to_be_named_and_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="needs its caption file"):
        coco.digest(SourceSpec("human", "coco", str(tmp_path)))
    with pytest.raises(SourceError, match="needs its caption file"):
        coco.digest(SourceSpec("human", "coco", str(tmp_path), str(tmp_path / "none.json")))


def test_the_digest_sees_captions_and_images(tmp_path: Path) -> None:
    found: dict[str, Any] = {"images": [image(1, "a.jpg")], "annotations": []}
    before = coco.digest(write(tmp_path, found, "a.jpg"))
    assert coco.digest(write(tmp_path, {**found, "annotations": captions((1, "x"))}, "a.jpg")) != before
    assert coco.digest(write(tmp_path, found, "a.jpg", "b.jpg")) != before
