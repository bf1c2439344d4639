"""Read what a parent run kept, as images to pretrain on."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.identity import image_id, pair_id
from capfilt.data_contracts.records import CleanedImage, CleanedPart, IngestedImage, Record, Source, Split
from capfilt.data_contracts.rejects import Reason
from capfilt.models.images.decode import MOST_PIXELS, Limits, measure
from capfilt.stages.stage import Rejected, Rows, ShardInput, ShardStage, Site, Transform

BATCH = 256
_ANY = Limits(MOST_PIXELS, float("inf"), 1)  # the parent had its own
_Row = dict[str, Any]


@dataclass(frozen=True)
class ReadCleaned(ShardStage):
    """The pairs of a part of the parent's export, by image; human ones only of the train split.

    Where the export holds no bytes, or no texts either (a subset list), those of the parent's own stages are read.
    ``homes`` are the folders of the runs that hold them, by stage: a fork refers to its parents'. ``round`` is the
    parent's.
    """

    consumes: ClassVar[tuple[type[Record], ...]] = (CleanedPart,)
    produces: ClassVar[type[Record]] = CleanedImage
    libraries: ClassVar[tuple[str, ...]] = ("pillow",)

    parent: str
    round: int
    homes: Mapping[str, str] = field(metadata={"identity": False}, hash=False, repr=False)

    def open(self, site: Site) -> Transform:
        return self._transform

    def units(self, shard: ShardInput) -> Mapping[str, Sequence[str]]:
        (part,) = shard.table(CleanedPart).to_pylist()
        rows = pq.read_table(self._file(part["export"]), columns=["row_id"])["row_id"].unique().to_pylist()
        return {row: (row,) for row in rows}

    def _transform(self, shard: ShardInput) -> Iterator[Rows]:
        (part,) = shard.table(CleanedPart).to_pylist()
        path = self._file(part["export"])
        export = pq.read_table(pa.BufferReader(self._sound(path, part["sha256"])))
        embeds = "image" in export.column_names and not export["image"].null_count
        images = self._embedded(export) if embeds else self._referred(export, part)
        pairs = self._pairs(export, part, images)
        groups = [(row, list(own)) for row, own in groupby(pairs, key=lambda pair: pair["row_id"])]
        for start in range(0, len(groups), BATCH):
            kept: list[Record] = []
            rejected = []
            for row, own in groups[start : start + BATCH]:
                image = images[row]
                if image["split"] in (None, Split.TRAIN):
                    kept.append(self._row(image, own))
                else:
                    detail = f"{image['url']}: a human image of the {image['split']} split"
                    rejected.append(
                        Rejected(
                            id=row,
                            row_id=row,
                            reason=Reason.HELD_OUT,
                            detail=detail,
                        )
                    )
            yield Rows(Contract(CleanedImage).table(kept), rejected)

    def _row(self, image: _Row, pairs: Sequence[_Row]) -> CleanedImage:
        return CleanedImage(
            **{name: image[name] for name in IngestedImage.model_fields if name != "texts"},
            texts=[pair["text"] for pair in pairs],
            sources=[pair["source"] for pair in pairs],
            pair_ids=[pair["pair_id"] for pair in pairs],
            rounds=[pair.get("round", self.round) for pair in pairs],
            parent=self.parent,
        )

    def _pairs(self, export: pa.Table, part: _Row, images: Mapping[str, _Row]) -> list[_Row]:
        """The pairs with their texts, sorted by image and otherwise in their order."""
        columns = [
            name for name in ("pair_id", "row_id", "source", "text", "round") if name in export.column_names
        ]
        pairs: list[_Row] = export.select(columns).to_pylist()
        if "text" not in columns:
            texts = self._judged(part) if part["scores"] else {}
            for pair in pairs:
                if pair["source"] == Source.HUMAN:
                    shown = images[pair["row_id"]]
                    own = {pair_id(shown["image_id"], text): text for text in shown["texts"]}
                    pair["text"] = own[pair["pair_id"]]
                else:
                    pair["text"] = texts[pair["pair_id"]]
        return sorted(pairs, key=lambda pair: str(pair["row_id"]))

    def _judged(self, part: _Row) -> dict[str, str]:
        """The texts that the parent scored, by pair_id."""
        scores = pq.read_table(self._file(part["scores"]), columns=["pair_id", "text"])
        return dict(zip(scores["pair_id"].to_pylist(), scores["text"].to_pylist(), strict=True))

    def _embedded(self, export: pa.Table) -> dict[str, _Row]:
        """The images of an export that holds their bytes, by row_id."""
        images: dict[str, _Row] = {}
        for row in export.to_pylist():
            if row["row_id"] not in images:
                images[row["row_id"]] = {**row, **measure(row["image"], _ANY)._asdict()}
        return images

    def _referred(self, export: pa.Table, part: _Row) -> dict[str, _Row]:
        """The images of the parent's `ingest` or `human` that the export names, by row_id."""
        wanted = export["row_id"].unique()
        table = pq.read_table(self._file(part["images"]), filters=pc.field("row_id").isin(wanted))
        images = {row["row_id"]: {"split": None, **row} for row in table.to_pylist()}
        for row, image in zip(export["row_id"].to_pylist(), export["image_id"].to_pylist(), strict=True):
            if row not in images or image_id(images[row]["image"]) != image:
                raise self._gone(f"{part['images']} has no image {row} with the bytes of the export")
        return images

    def _file(self, name: str | None) -> Path:
        """The file under a name such as `ingest/part-0000017.parquet`."""
        stage = str(name).partition("/")[0]
        path = Path(self.homes.get(stage, "")) / str(name)
        if name is None or not path.is_file():
            raise self._gone(
                f"there is no {path}" if name else "it has neither `ingest` nor `human` any more"
            )
        return path

    def _sound(self, path: Path, sha256: str) -> bytes:
        data = path.read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise self._gone(f"{path} has sha256 {found[:12]} instead of {sha256[:12]}")
        return data

    def _gone(self, evidence: str) -> SourceError:
        return SourceError(
            what=f"the cleaned set of the parent run {self.parent} cannot be read: images or texts are gone",
            evidence=evidence,
            remedy="bring back the parent's folder as it was, or pretrain without a parent run; "
            "a parent whose export embeds its images needs its export alone",
        )
