import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from capfilt.data_contracts.identity import image_id, pair_id, split_of
from capfilt.data_contracts.records import Occurrence
from capfilt.data_contracts.rejects import Reason
from capfilt.models.images import decoder
from capfilt.models.images.decode import Limits
from capfilt.stages.ingest.ingest import IngestHuman, IngestImages
from capfilt.stages.ingest.sources.source import SourceSpec
from capfilt.stages.ingest.texts import TextRules
from capfilt.stages.stage import Rejected
from tests.stages.rows import occurrence, png, run_shard, site

Ingest = Callable[..., tuple[list[dict], list[Rejected]]]


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    """Runs the stage on occurrences of files that are there with the given bytes."""

    def run(*rows: Occurrence, kind: type[IngestImages] = IngestImages, **files: bytes):
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        stage = kind((SourceSpec("web", "folder", str(tmp_path)),), Limits(min_side=2), TextRules())
        return run_shard(stage.open(site(tmp_path)), *rows)

    return run


def test_a_image_keeps_its_bytes_and_is_measured(ingest: Ingest) -> None:
    data = io.BytesIO()
    Image.new("L", (5, 3)).save(data, "JPEG")
    given = occurrence("a", "one", "two")
    (row,), rejected = ingest(given, a=data.getvalue())
    assert not rejected
    assert row == {
        "row_id": given.row_id,
        "image_id": image_id(data.getvalue()),
        "source_name": "web",
        "url": "a",
        "texts": ["one", "two"],
        "image": data.getvalue(),
        "format": "JPEG",
        "width": 5,
        "height": 3,
        "extra": None,
    }


def test_a_image_that_lies_on_its_side_is_measured_upright(ingest: Ingest) -> None:
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 3)).save(data, "JPEG", exif=exif)
    (row,), _ = ingest(occurrence("a"), a=data.getvalue())
    assert (row["width"], row["height"]) == (3, 5)


def test_what_is_no_image_leaves_with_the_reason_and_its_neighbours_stay(ingest: Ingest) -> None:
    rows = [occurrence(name, "a text") for name in ("good", "cut", "text", "empty", "gone")]
    kept, rejected = ingest(
        *rows, good=png(1), cut=png(2, 64)[:-30], text=b"<html>not here</html>", empty=b""
    )
    assert [row["url"] for row in kept] == ["good"]
    assert {reject.detail.split(":")[0]: reject.reason for reject in rejected} == {
        "cut": Reason.UNREADABLE,
        "text": Reason.NOT_IMAGE,
        "empty": Reason.UNREADABLE,
        "gone": Reason.MISSING,
    }
    assert {reject.id for reject in rejected} == {row.row_id for row in rows[1:]}


def test_a_image_outside_the_limits_leaves_with_the_limit(ingest: Ingest) -> None:
    line = io.BytesIO()
    Image.new("1", (3, 900)).save(line, "PNG")
    kept, rejected = ingest(
        *(occurrence(name) for name in ("dot", "line", "good")),
        dot=png(1, 1),
        line=line.getvalue(),
        good=png(2),
    )
    assert [row["url"] for row in kept] == ["good"]
    assert [(reject.reason, reject.detail) for reject in rejected] == [
        (Reason.TOO_SMALL, "dot: 1x1 pixels, less than 2"),
        (Reason.ASPECT, "line: 3x900 pixels, beyond 1 to 20"),
    ]


def test_a_decoder_that_dies_takes_one_row(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = decoder.CHILD.replace(
        "from capfilt.models.images.decoder import", "from tests.models.images.hostile_decoder import"
    )
    monkeypatch.setattr(decoder, "CHILD", hostile)
    files = {f"p{number:03}": png(number) for number in range(200)} | {"p150": b"crash"}
    kept, (reject,) = ingest(*map(occurrence, files), **files)
    assert [row["url"] for row in kept] == [name for name in files if name != "p150"]
    assert (reject.reason, reject.unit) == (Reason.DECODER_DIED, None)
    assert "SIGSEGV" in reject.detail


def test_texts_are_cleaned_and_what_leaves_does_not_take_its_image_along(ingest: Ingest) -> None:
    given = occurrence(
        "a", "a <b>dog</b>", "IMG_1.jpg", "a dog", "<br>", "schÃ¶n", "click to enlarge", "\u202e"
    )
    (row,), rejected = ingest(given, a=png(1))
    assert row["texts"] == ["a dog", "schön"]
    assert [(reject.reason, reject.detail.removeprefix("a: ")) for reject in rejected] == [
        (Reason.TEXT_FILE_NAME, "IMG_1.jpg"),
        (Reason.DUPLICATE_PAIR, "a dog"),
        (Reason.EMPTY_TEXT, "<br>"),
        (Reason.TEXT_BOILERPLATE, "click to enlarge"),
        (Reason.EMPTY_TEXT, "\u202e"),
    ]
    assert {(reject.unit, reject.row_id) for reject in rejected} == {("text", given.row_id)}
    assert rejected[0].id == pair_id(row["image_id"], "IMG_1.jpg")
    assert len(given.texts) == len(row["texts"]) + len(rejected)


def test_human_captions_are_cleaned_and_no_rule_is_held_against_them(ingest: Ingest) -> None:
    given = occurrence("a", "IMG_1.jpg", "a  <i>dog</i>", "x", "\u200b", "image")
    (row,), (reject,) = ingest(given, kind=IngestHuman, a=png(1))
    assert row["texts"] == ["IMG_1.jpg", "a dog", "x", "image"]
    assert (reject.reason, reject.unit) == (Reason.EMPTY_TEXT, "text")


def test_a_human_image_whose_captions_are_all_empty_leaves_with_every_one_counted(ingest: Ingest) -> None:
    kept, rejected = ingest(occurrence("a", "<br>", "\u200b"), kind=IngestHuman, a=png(1))
    assert not kept
    assert [(reject.reason, reject.unit) for reject in rejected] == [
        (Reason.EMPTY_TEXT, "text"),
        (Reason.EMPTY_TEXT, "text"),
        (Reason.EMPTY, None),
    ]


def test_a_image_without_a_text_stays_to_be_captioned(ingest: Ingest) -> None:
    (row,), _ = ingest(occurrence("a"), a=png(1))
    assert row["texts"] == []


def test_a_human_image_needs_a_caption_and_is_told_what_it_is_for(ingest: Ingest) -> None:
    files = {f"p{number}": png(number) for number in range(12)}
    rows = [occurrence(name, "t") for name in files]
    kept, (reject,) = ingest(*rows, occurrence("dumb"), kind=IngestHuman, dumb=png(99), **files)
    assert [row["split"] for row in kept] == [split_of(image_id(data)) for data in files.values()]
    assert len({row["split"] for row in kept}) > 1
    assert (reject.reason, reject.detail) == (Reason.EMPTY, "dumb: no human caption")


def test_every_row_is_read_from_its_own_source(tmp_path: Path) -> None:
    specs = []
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(png(number))
        specs.append(SourceSpec(name, "folder", str(tmp_path / name)))
    stage = IngestImages(tuple(specs))
    kept, _ = run_shard(
        stage.open(site(tmp_path)), occurrence("a", source="two"), occurrence("a", source="one")
    )
    assert [row["image_id"] for row in kept] == [image_id(png(1)), image_id(png(0))]


def test_opening_reads_nothing(tmp_path: Path) -> None:
    IngestImages((SourceSpec("web", "folder", str(tmp_path / "nowhere")),)).open(site(tmp_path))


def test_other_columns_of_the_source_go_along(ingest: Ingest) -> None:
    given = occurrence("a", "t", extra='{"score": 1}')
    for kind in (IngestImages, IngestHuman):
        (row,), _ = ingest(given, a=png(1), kind=kind)
        assert row["extra"] == '{"score": 1}'
